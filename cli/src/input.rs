//! A payload on its way in: read in pieces by a thread of its own, so that signals and a lost lease interrupt the wait
//! for it.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// The size of a piece.
pub(crate) const PIECE: usize = 64 * 1024;
/// How many pieces there are; they go round between the two threads.
const PIECES: usize = 4;

/// What the main thread waits for.
pub(crate) enum Message {
    /// The next bytes of the payload.
    Data(Vec<u8>),
    /// There are no more.
    End(io::Result<()>),
    /// Something happened that [`Control`](crate::control::Control) tells.
    Wake,
}

/// Where used pieces go back to.
pub(crate) struct Pieces(Sender<Vec<u8>>);

impl Pieces {
    /// Gives `piece` back to be filled again.
    pub(crate) fn give_back(&self, piece: Vec<u8>) {
        // The reader may have ended already.
        let _ = self.0.send(piece);
    }
}

/// Reads `source` to its end in the background.
///
/// # Errors
/// There are no threads here, or no more of them.
pub(crate) fn read_in_background<R: Read + Send + 'static>(
    source: R,
    to: Sender<Message>,
) -> io::Result<Pieces> {
    let (give, free) = mpsc::channel();
    for _ in 0..PIECES {
        // `free` is alive here.
        let _ = give.send(Vec::new());
    }
    thread::Builder::new()
        .name("cachelock-input".to_owned())
        .spawn(move || {
            // Fails when the main thread has lost its interest.
            let _ = to.send(Message::End(copy(source, &free, &to)));
        })?;
    Ok(Pieces(give))
}

fn copy(mut source: impl Read, free: &Receiver<Vec<u8>>, to: &Sender<Message>) -> io::Result<()> {
    while let Ok(mut piece) = free.recv() {
        piece.resize(PIECE, 0);
        let read = match source.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        piece.truncate(read);
        if to.send(Message::Data(piece)).is_err() {
            break;
        }
    }
    Ok(())
}
