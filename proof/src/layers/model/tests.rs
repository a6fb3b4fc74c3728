//! What the model itself must get right: else nothing would be noticed.

use super::process::{ABSENT, HEAD_FILE, Mode, PAYLOAD, Pc, Process, Record, TAG, Tag};
use super::scene::Kind::{Guest, Native, Reader};
use super::scene::{Expiry, Scene, part};
use super::state::{Broken, Claim, NO_GATE, NOBODY, Says, State};
use super::steps::{How, Step, Steps};

fn record(content: u8, generation: u8) -> Record {
    Record {
        content,
        generation,
    }
}

/// All steps of process 0 of `scene` in `state`.
fn steps(scene: &Scene, state: &State) -> Vec<Step> {
    let mut out = Vec::new();
    Steps {
        scene,
        state,
        who: 0,
        epochs: scene.epochs,
        out: &mut out,
    }
    .all();
    out
}

/// What the step that goes well breaks.
#[track_caller]
fn breaks(scene: &Scene, state: &State) -> Broken {
    let steps = steps(scene, state);
    let goes = steps.iter().find(|step| step.how == How::Goes);
    goes.expect("it goes on").next.broken
}

fn guests() -> Scene {
    Scene::new("guests", &[part(Guest, 1), part(Guest, 1)], 4)
}

/// Two guests, the first of which is at `pc` with epoch 2, and `head` is there, too.
fn holding(pc: Pc, files: u8) -> State {
    let mut state = guests().first();
    state.head = 2;
    state.processes[0] = Process {
        pc,
        files,
        rounds: 1,
        publishes: 1,
        epoch: 2,
        ..Process::IDLE
    };
    state
}

#[test]
fn states_that_differ_are_told_apart() {
    let changes: [fn(&mut State); 17] = [
        |state| state.head += 1,
        |state| state.claims[1].says = Says::Empty,
        |state| state.claims[1].maker = 1,
        |state| state.claims[1].nonce = 1,
        |state| state.gate = 0,
        |state| state.locked_by[1] = 0,
        |state| state.gate_deleted = true,
        |state| state.left = 2,
        |state| state.payload += 1,
        |state| state.tag.previous.generation += 1,
        |state| state.fenced += 1,
        |state| state.acknowledged += 1,
        |state| state.broken = Broken::TwoHold,
        |state| state.processes[1].pc = Pc::Done,
        |state| state.processes[2].maybe = 0x100,
        |state| state.processes[2].last_taken = 1,
        |state| state.processes.swap(0, 2),
    ];
    let first = guests().first();
    let mut seen = vec![first.words()];
    for change in changes {
        let mut state = first;
        change(&mut state);
        assert!(!seen.contains(&state.words()), "{state:?}");
        seen.push(state.words());
    }
}

#[test]
fn each_promise_is_seen_to_be_broken() {
    let mut early = holding(Pc::GiveUpUnlink, 0);
    early.head = 1;
    early.claims[2] = Claim {
        says: Says::Lease,
        maker: 0,
        nonce: 0,
    };
    assert_eq!(breaks(&guests(), &early), Broken::ClaimUnlinkedEarly);
    early.head = 2;
    assert_eq!(breaks(&guests(), &early), Broken::Nothing);

    let mut again = holding(Pc::HeadRename, HEAD_FILE);
    assert_eq!(breaks(&guests(), &again), Broken::HeadWentBack);
    again.head = 1;
    assert_eq!(breaks(&guests(), &again), Broken::Nothing);

    again.processes[1] = Process {
        pc: Pc::PayloadRename,
        epoch: 1,
        ..Process::IDLE
    };
    let guesses_right = Scene {
        expiry: Expiry::Dead,
        ..guests()
    };
    assert_eq!(breaks(&guesses_right, &again), Broken::TwoHold);

    let mut collects = holding(Pc::Collect, 0);
    collects.processes[1] = Process {
        pc: Pc::TagRename,
        epoch: 3,
        files: TAG,
        rounds: 1,
        ..Process::IDLE
    };
    let seen = u16::from(TAG) << 4;
    assert_eq!(breaks(&guests(), &collects), Broken::Nothing);
    collects.processes[0].sure = seen;
    assert_eq!(breaks(&guests(), &collects), Broken::LiveCollected);
    collects.crash(1);
    assert_eq!(breaks(&guests(), &collects), Broken::Nothing);

    let mut overtaken = holding(Pc::TagRename, TAG | PAYLOAD);
    assert_eq!(breaks(&guests(), &overtaken), Broken::Nothing);
    overtaken.fenced = 3;
    assert_eq!(breaks(&guests(), &overtaken), Broken::FencedPublished);
    overtaken.head = 3;
    assert_eq!(breaks(&guests(), &overtaken), Broken::OvertakenPublished);
}

#[test]
fn what_readers_see_is_judged() {
    let mut state = holding(Pc::PayloadRename, PAYLOAD);
    let fresh = state.fresh(0);
    state.payload = 60;
    state.processes[0].current = record(60, 4);
    state.tag = Tag {
        previous: record(60, 4),
        next: record(fresh, 5),
    };
    assert_eq!(breaks(&guests(), &state), Broken::Nothing);
    state.tag.next.generation = 6;
    assert_eq!(breaks(&guests(), &state), Broken::Generations);
    state.tag.next.content = 61;
    assert_eq!(breaks(&guests(), &state), Broken::PayloadUnknown);

    let reader = Scene::new("a reader", &[part(Reader, 1)], 4);
    let mut reads = reader.first();
    reads.tag.next = record(7, 3);
    reads.processes[0].pc = Pc::ReadTag;
    reads.processes[0].opened = 7;
    // The tag is read, and then compared whether the entry still is what was opened.
    let judged = |reads: &State| {
        let compares = steps(&reader, reads)[0].next;
        assert_eq!(compares.processes[0].pc, Pc::ReadCheck);
        compares
    };
    reads.processes[0].current.generation = 3;
    reads.payload = 7;
    assert_eq!(breaks(&reader, &judged(&reads)), Broken::Nothing);
    reads.processes[0].current.generation = 4;
    assert_eq!(breaks(&reader, &judged(&reads)), Broken::ReadTooOld);
    reads.processes[0].current.generation = 3;
    let mut replaced = judged(&reads);
    replaced.version = 1;
    let again = steps(&reader, &replaced)[0].next;
    assert_eq!(
        (again.broken, again.processes[0].pc),
        (Broken::Nothing, Pc::ReadOpen)
    );
    let mut early = judged(&reads);
    early.tag.previous = record(9, 2);
    early.payload = 9;
    assert_eq!(breaks(&reader, &early), Broken::ReadTooEarly);
    reads.processes[0].opened = 8;
    reads.processes[0].passed = 1;
    let mismatch = steps(&reader, &reads)[0].next;
    assert_eq!(mismatch.broken, Broken::FalseCorruption);
    reads.processes[0].passed = 2;
    let mismatch = steps(&reader, &reads)[0].next;
    assert_eq!(mismatch.broken, Broken::Nothing, "publishes have passed");
}

#[test]
fn a_scan_sees_what_stays_and_may_miss_what_comes() {
    let mut state = holding(Pc::ScanBegin, 0);
    state.processes[1] = Process {
        epoch: 1,
        files: PAYLOAD,
        ..holding(Pc::StageCreate, 0).processes[0]
    };
    let scan = steps(&guests(), &state)[0].next;
    let mut state = scan;
    state.create(1, TAG);
    let ends: Vec<u16> = steps(&guests(), &state)
        .iter()
        .filter(|step| step.how == How::Goes)
        .map(|step| step.next.processes[0].sure)
        .collect();
    let (payload, tag) = (u16::from(PAYLOAD) << 4, u16::from(TAG) << 4);
    assert_eq!(ends, [payload | tag, payload]);
    state.remove(1, PAYLOAD);
    let nothing_seen = |step: &Step| step.next.processes[0].pc == Pc::HeadCreate;
    assert!(steps(&guests(), &state).iter().any(nothing_seen));
}

#[test]
fn a_tag_knows_the_payload_by_the_newer_record_first() {
    let tag = Tag {
        previous: record(5, 1),
        next: record(5, 2),
    };
    assert_eq!(tag.record_of(5, false), Some(record(5, 2)));
    assert_eq!(tag.record_of(5, true), Some(record(5, 1)));
    assert_eq!(tag.record_of(6, false), None);
    let absent = Tag {
        previous: record(5, 1),
        next: record(ABSENT, 2),
    };
    assert_eq!(absent.record_of(5, false), Some(record(ABSENT, 2)));
}

#[test]
fn who_dies_leaves_its_files_and_gives_the_gate_back() {
    let scene = Scene::new("a native", &[part(Native, 2)], 4);
    let mut state = scene.first();
    state.gate = 0;
    state.locked_by[0] = 0;
    state.claims[2].says = Says::gated(0);
    (state.claims[2].maker, state.claims[2].nonce) = (0, 0);
    state.processes[0] = Process {
        pc: Pc::TagRename,
        files: TAG,
        epoch: 2,
        gate: 0,
        mode: Mode::Same,
        rounds: 2,
        ..Process::IDLE
    };
    state.crash(0);
    assert_eq!(state.left, 1 << 2);
    assert_eq!(state.locked_by, [NOBODY; 2]);
    assert_eq!(state.claim(2).maker, NOBODY);
    assert_eq!(state.processes[0].pc, Pc::Idle);
    assert_eq!(state.processes[0].gate, NO_GATE);
}
