//! The scenes that are searched, and those in which each defect shows.

use cachelock::Mutation;

use super::check::Search;
use super::process::Mode;
use super::scene::Kind::{self, Guest, Native, Operator, Reader};
use super::scene::{Expiry, Part, Scene, part};
use crate::{Plan, Size};

const ALL: &[Mode] = &[Mode::Value, Mode::Same, Mode::Absent, Mode::NotModified];

fn once(kinds: &[Kind]) -> Vec<Part> {
    kinds.iter().map(|kind| part(*kind, 1)).collect()
}

fn two_guests() -> Scene {
    Scene::new("two guests", &once(&[Guest, Guest]), 4)
}

fn guest_and_two() -> Scene {
    Scene::new(
        "a guest and one that comes twice",
        &[part(Guest, 1), part(Guest, 2)],
        4,
    )
}

fn two_natives() -> Scene {
    Scene::new("two natives", &once(&[Native, Native]), 4)
}

fn gate_deleted() -> Scene {
    Scene {
        name: "two natives, the gate's name is deleted",
        gate_deleted: true,
        ..two_natives()
    }
}

fn absent() -> Scene {
    Scene {
        name: "two guests, values and absences",
        modes: &[Mode::Value, Mode::Absent],
        ..two_guests()
    }
}

fn same() -> Scene {
    Scene {
        modes: &[Mode::Value, Mode::Same],
        ..Scene::new("a guest with the same bytes again", &[part(Guest, 3)], 5)
    }
}

fn reader() -> Scene {
    Scene {
        publishes: 2,
        ..Scene::new(
            "a reader and a guest",
            &[part(Reader, 2), part(Guest, 3)],
            4,
        )
    }
}

/// The bytes of an older payload come again.
fn repeats() -> Scene {
    Scene {
        name: "a reader and a guest with two payloads in turns",
        repeats: true,
        ..reader()
    }
}

/// No claim expires, nobody dies, and whoever wants the lease comes back.
fn wants() -> Scene {
    Scene {
        publishes: 0,
        expiry: Expiry::Dead,
        crashes: false,
        fair: true,
        lone: 0,
        ..Scene::new(
            "a guest that asks for its turn, two natives that come back",
            &[part(Guest, 1), part(Native, 3), part(Native, 2)],
            6,
        )
    }
}

fn no_crashes() -> Scene {
    Scene {
        crashes: false,
        lone: 0,
        ..Scene::new("three guests that live", &once(&[Guest, Guest, Guest]), 3)
    }
}

/// Whoever is taken for dead is dead, so holders exclude each other.
fn right_guesses(parts: &[Part], epochs: u8) -> Scene {
    Scene {
        expiry: Expiry::Dead,
        lone: 0,
        ..Scene::new(
            "a guest and two natives, every guess is right",
            parts,
            epochs,
        )
    }
}

fn with_errors(scene: Scene) -> Scene {
    Scene {
        errors: true,
        ..scene
    }
}

/// A power cut has left the claim of this epoch, and files of it, and no head.
fn power_cut(parts: &[Part], left: u8, epochs: u8) -> Scene {
    Scene {
        power_cut: 1 << left,
        ..Scene::new("after a power cut", parts, epochs)
    }
}

/// What is searched, and how.
pub(super) fn searched(plan: &Plan) -> Vec<(Scene, Search)> {
    let mut searched: Vec<_> = small()
        .into_iter()
        .map(|scene| (scene, Search::All))
        .collect();
    if plan.size > Size::Short {
        searched.extend(middle().into_iter().map(|scene| (scene, Search::All)));
    }
    if plan.size > Size::Standard {
        searched.extend(large());
    }
    let steps = plan.size.pick(300_000, 5_000_000, 50_000_000);
    searched.push((walked(), Search::Walks(steps, plan.seed)));
    searched
}

fn small() -> Vec<Scene> {
    vec![
        two_guests(),
        guest_and_two(),
        two_natives(),
        gate_deleted(),
        absent(),
        same(),
        reader(),
        repeats(),
        wants(),
        with_errors(Scene::new(
            "an operator and a native, errors",
            &once(&[Operator, Native]),
            3,
        )),
        with_errors(Scene {
            beats: true,
            ..Scene::new("two guests that beat, errors", &once(&[Guest, Guest]), 3)
        }),
        right_guesses(&[part(Guest, 1), part(Native, 1), part(Native, 2)], 4),
        Scene {
            name: "two guests after a power cut",
            ..power_cut(&once(&[Guest, Guest]), 2, 4)
        },
        Scene {
            name: "a guest and a native after a power cut",
            ..power_cut(&once(&[Guest, Native]), 3, 4)
        },
    ]
}

fn middle() -> Vec<Scene> {
    vec![
        no_crashes(),
        Scene::new("three guests", &once(&[Guest, Guest, Guest]), 3),
        Scene::new(
            "a guest and two natives",
            &once(&[Guest, Native, Native]),
            3,
        ),
        Scene::new(
            "an operator, a native, a guest",
            &once(&[Operator, Native, Guest]),
            3,
        ),
        with_errors(Scene {
            modes: ALL,
            publishes: 2,
            ..Scene::new(
                "a guest and a native, all publishes, errors",
                &once(&[Guest, Native]),
                3,
            )
        }),
        Scene {
            publishes: 2,
            ..Scene::new(
                "a reader, a guest, a native",
                &once(&[Reader, Guest, Native]),
                3,
            )
        },
    ]
}

fn large() -> Vec<(Scene, Search)> {
    let guests = Scene::new(
        "three guests, four epochs",
        &once(&[Guest, Guest, Guest]),
        4,
    );
    let twice = Scene::new(
        "a guest and a native that come twice",
        &[part(Guest, 2), part(Native, 2)],
        5,
    );
    let errors = with_errors(Scene::new(
        "an operator, a native, a guest, errors",
        &once(&[Operator, Native, Guest]),
        3,
    ));
    let natives = Scene::new(
        "a guest and two natives, four epochs",
        &once(&[Guest, Native, Native]),
        4,
    );
    let cut_guests = Scene {
        name: "three guests after a power cut",
        ..power_cut(&once(&[Guest, Guest, Guest]), 3, 4)
    };
    let power_cut = with_errors(Scene {
        name: "a guest and a native after a power cut, errors",
        ..power_cut(&once(&[Guest, Native]), 3, 5)
    });
    let right = right_guesses(&[part(Guest, 1), part(Native, 2), part(Native, 2)], 5);
    vec![
        (right, Search::All),
        (cut_guests, Search::All),
        (power_cut, Search::All),
        (guests, Search::All),
        (twice, Search::All),
        (errors, Search::Near(100_000_000)),
        (natives, Search::All),
    ]
}

/// Three processes that come again and again, with all that may happen: too many states to have them all.
fn walked() -> Scene {
    with_errors(Scene {
        modes: ALL,
        beats: true,
        gate_deleted: true,
        publishes: 2,
        ..Scene::new(
            "a guest, a native, an operator, again and again",
            &[part(Guest, 3), part(Native, 3), part(Operator, 2)],
            6,
        )
    })
}

/// Each defect, in the scene that shows it.
pub(super) fn controls() -> Vec<(Mutation, Scene)> {
    vec![
        (Mutation::StageNotChecked, two_guests()),
        (Mutation::HeadNotChecked, two_guests()),
        (Mutation::CheckReversed, two_guests()),
        (Mutation::FenceOneEpoch, guest_and_two()),
        (Mutation::HeadBeforeFence, two_guests()),
        (Mutation::LoserUnlinks, no_crashes()),
        (Mutation::RemoveByUnlink, absent()),
        (Mutation::PreviousFromNext, guest_and_two()),
        (Mutation::StateReadEarly, two_guests()),
        (Mutation::PreviousWins, same()),
        (Mutation::GateReleasedFirst, two_natives()),
        (Mutation::GateNotCompared, gate_deleted()),
        (Mutation::GateWaitBlind, two_natives()),
        (Mutation::EmptyWaitsLease, two_guests()),
        (Mutation::TagReadLate, reader()),
        (Mutation::PayloadNotCompared, repeats()),
        (Mutation::NoCourtesy, wants()),
        (
            Mutation::LaterClaimsCollected,
            Scene {
                crashes: false,
                lone: 0,
                ..power_cut(&[part(Guest, 2), part(Guest, 3)], 4, 4)
            },
        ),
    ]
}
