//! What the agent asks of the keeper and what the keeper tells it, and the bytes of both: a header (payload
//! length, 4 bytes little-endian; number of descriptors, 1 byte), then the value in postcard's encoding.
//! Descriptors travel with a frame's first byte. The enums only ever grow at the end, so that a keeper and an
//! agent of different releases find a common version. Moving the bytes is `socket`'s.

use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The versions of these frames that this build speaks, the best first.
pub const VERSIONS: [u16; 3] = [3, 2, 1];
/// From this version on a keeper knows [`Request::Replace`].
pub const REPLACES: u16 = 3;
/// From this version on a keeper tells its agent what it takes to begin another keeper.
pub(crate) const REPLACEABLE: u16 = 3;
/// Bytes of a payload.
pub const MAX_PAYLOAD: usize = 16 << 20;
/// Descriptors of one frame: what the kernel passes in one message.
pub const MAX_DESCRIPTORS: usize = 253;
/// Bytes before the payload.
pub const HEADER: usize = 5;

/// From the agent. Each is answered as its variant says; one that breaks a rule is answered by
/// [`Event::Refused`] and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The first request; answered by [`Event::Hello`], then [`Event::Adopted`] for every program that is not
    /// released and [`Event::Stashed`] for every entry of the stash. A later one asks for these again.
    Hello { versions: Vec<u16> },
    /// Applied to the keeper, and inherited by every later program. [`Event::Prepared`] or
    /// [`Event::PrepareFailed`].
    Prepare(Prepare),
    /// [`Event::Spawned`], [`Event::SpawnFailed`]; later [`Event::Exited`]. One descriptor where stdin is
    /// [`Stdin::Passed`], else none.
    Spawn(Box<Spawn>),
    /// Silent on success; [`Event::SignalFailed`]. A program that has been reaped is never signalled.
    Signal { id: u64, signo: i32, to_group: bool },
    /// Forgets an exited program and closes its pipes: its exit and its output have been dealt with. Silent.
    Release { id: u64 },
    /// The daemon is up: a daemonizing keeper lets go of its terminal and the launcher exits with 0. May carry
    /// one descriptor, to which the keeper writes its own messages from now on in place of stderr. Silent.
    Ready,
    /// Keeps bytes and this frame's descriptors for a successor, in place of what `key` had. Silent.
    Stash { key: String, bytes: Vec<u8> },
    /// Silent, also where there is no such entry.
    Unstash { key: String },
    /// The agent is about to exit in order, and the keeper is to exit with this status after it. Silent.
    Stop { status: i32 },
    /// Version 2. A signal of [`Event::Relayed`] is safe from the agent's death: a successor need not hear of it.
    /// Silent.
    Heard { signo: i32 },
    /// Version 3. The agent is about to exit, and the next one is the program of the one descriptor, which the keeper
    /// executes as it is; it follows at once. If agents of it die one after the other before they have lived for a
    /// moment, the program that was before comes back. Silent.
    Replace,
    /// Version 3. The keeper itself is to become the program that the agents are, with its pid and its children.
    /// [`Event::Renewed`].
    Renew,
}

impl Request {
    /// How many descriptors belong to it.
    pub(crate) fn descriptors(&self) -> RangeInclusive<usize> {
        match self {
            Request::Spawn(spawn) => match spawn.stdin {
                Stdin::Pipe => 0..=0,
                Stdin::Passed => 1..=1,
            },
            Request::Ready => 0..=1,
            Request::Replace => 1..=1,
            Request::Stash { .. } => 0..=MAX_DESCRIPTORS,
            Request::Hello { .. }
            | Request::Prepare(_)
            | Request::Signal { .. }
            | Request::Release { .. }
            | Request::Unstash { .. }
            | Request::Stop { .. }
            | Request::Heard { .. }
            | Request::Renew => 0..=0,
        }
    }
}

/// From the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    Hello {
        version: u16,
        /// The daemon's pid, for the pidfile and for whoever asks.
        keeper_pid: i32,
        /// The keeper will let go of the terminal at [`Request::Ready`].
        daemonize: bool,
        /// An earlier agent has said [`Request::Ready`].
        ready: bool,
        /// How many [`Event::Adopted`] and [`Event::Stashed`] follow.
        adopted: u32,
        stashed: u32,
    },
    Prepared,
    PrepareFailed {
        step: PrepareStep,
        errno: i32,
    },
    /// With the descriptors that `pipes` says, then a pidfd of the program where there is one.
    Spawned {
        id: u64,
        pid: i32,
        pipes: Pipes,
    },
    SpawnFailed {
        id: u64,
        step: SpawnStep,
        errno: i32,
    },
    /// The id is kept until [`Request::Release`].
    Exited {
        id: u64,
        exited: Exited,
    },
    SignalFailed {
        id: u64,
        errno: i32,
    },
    /// A child that nobody spawned: an orphan, where the keeper is pid 1. Left out where the agent doesn't keep up.
    Reaped {
        pid: i32,
        exit: Exit,
    },
    /// TERM, INT, QUIT, HUP or USR2 came to the keeper. Several of the same that the agent has not yet read may
    /// arrive as one. From version 2 on a successor is told again, unless [`Request::Heard`] came.
    Relayed {
        signo: i32,
    },
    /// A request was not carried out; `id` where it was about a program. After a header over its limits the stream
    /// can't be followed any more: then this is the last event, and the keeper kills the agent as one that failed.
    Refused {
        id: Option<u64>,
        reason: String,
    },
    /// A program from before this Hello, with descriptors as [`Event::Spawned`]; no pidfd of one that has ended.
    Adopted {
        id: u64,
        pid: i32,
        pipes: Pipes,
        exited: Option<Exited>,
    },
    /// An entry of the stash, with its descriptors.
    Stashed {
        key: String,
        bytes: Vec<u8>,
    },
    /// Version 2, before the [`Event::Adopted`] of a program: how many signals it was sent, or could not be sent.
    /// From version 3 on also after each [`Request::Signal`].
    Signalled {
        id: u64,
        count: u64,
    },
    /// Version 2, first after a Hello: the agent before this one is gone in spite of its programs.
    Succeeded {
        pid: i32,
        exit: Exit,
    },
    /// Version 3, first after a Hello: the keeper before this one was killed, and the agent of that time has begun
    /// this one. Programs from then are not its children.
    Revived {
        keeper_pid: i32,
    },
    /// Version 3, after a Hello where the agent's score for an end by want of memory is not that of programs.
    OomScore {
        programs: i32,
    },
    /// Version 3, after a Hello: what the keeper said while there was no agent to log it.
    Said {
        line: String,
    },
    /// Version 3. The keeper has become the program that was asked for, or why it has not.
    Renewed {
        error: Option<String>,
    },
}

/// What is `None` stays as it is. Carried out in this order, up to the first failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    pub user: Option<Identity>,
    /// RLIMIT_NOFILE and RLIMIT_NPROC are raised to at least this.
    pub minfds: Option<u64>,
    pub minprocs: Option<u64>,
    pub directory: Option<Vec<u8>>,
    pub umask: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrepareStep {
    Groups,
    Gid,
    Uid,
    Files,
    Processes,
    Directory,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// For `setgroups`.
    pub groups: Vec<u32>,
}

/// One program. Strings are bytes without NUL, as `execve` takes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// The agent's choice, not in use.
    pub id: u64,
    /// The file to execute; PATH is not searched.
    pub file: Vec<u8>,
    /// The program's name first.
    pub argv: Vec<Vec<u8>>,
    /// `KEY=value`; the whole environment.
    pub env: Vec<Vec<u8>>,
    pub directory: Option<Vec<u8>>,
    pub umask: Option<u32>,
    pub user: SpawnUser,
    /// stderr goes where stdout goes.
    pub redirect_stderr: bool,
    pub stdin: Stdin,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnUser {
    /// The keeper's own.
    Same,
    Become(Identity),
    /// The program is to say so on its stderr and to end with 127, as Supervisor's child does.
    Impossible {
        uid: u32,
        reason: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    Pipe,
    /// The frame's descriptor: the listening socket of a FastCGI program.
    Passed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpawnStep {
    Pipes,
    Fork,
}

/// Which ends come with an event, in this order: the write end of stdin if `stdin`, the read end of stdout, the
/// read end of stderr if `stderr`. All are non-blocking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipes {
    pub stdin: bool,
    pub stderr: bool,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal {
        signo: i32,
        core_dumped: bool,
    },
    /// Version 3: of a program that was no child of this keeper. To earlier versions it is code -1.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    pub exit: Exit,
    /// Counts the exits of programs in the order in which they were reaped, from 1.
    pub order: u64,
    /// When it was reaped: milliseconds of CLOCK_MONOTONIC.
    pub at_ms: u64,
}

impl Exited {
    /// In words that an agent of this version knows.
    pub(crate) fn as_of(self, version: u16) -> Exited {
        match self.exit {
            Exit::Unknown if version < REPLACEABLE => Exited { exit: Exit::Code(-1), ..self },
            Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown => self,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    #[error("a frame of {0} bytes is over the limit of {MAX_PAYLOAD}")]
    TooLong(usize),
    #[error("a frame with {0} descriptors is over the limit of {MAX_DESCRIPTORS}")]
    TooManyDescriptors(usize),
    #[error("descriptors came that belong to no frame")]
    StrayDescriptors,
    #[error("cannot decode a frame of {bytes} bytes: {reason}")]
    Undecodable { bytes: usize, reason: String },
}

/// Header and payload of one frame.
pub fn encode<T: Serialize>(value: &T, descriptors: usize) -> Result<Vec<u8>, FrameError> {
    let count = u8::try_from(descriptors).ok().filter(|_| descriptors <= MAX_DESCRIPTORS);
    let count = count.ok_or(FrameError::TooManyDescriptors(descriptors))?;
    let mut frame = postcard::to_extend(value, vec![0; HEADER])
        .map_err(|error| FrameError::Undecodable { bytes: 0, reason: error.to_string() })?;
    let payload = frame.len() - HEADER;
    let length = u32::try_from(payload).ok().filter(|_| payload <= MAX_PAYLOAD);
    frame[..4].copy_from_slice(&length.ok_or(FrameError::TooLong(payload))?.to_le_bytes());
    frame[4] = count;
    Ok(frame)
}

/// The value of a payload, which must have no byte more.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, FrameError> {
    let undecodable = |reason| FrameError::Undecodable { bytes: payload.len(), reason };
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(undecodable(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(undecodable(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..40)
    }

    fn identity() -> impl Strategy<Value = Identity> {
        let groups = prop::collection::vec(any::<u32>(), 0..4);
        (any::<u32>(), any::<u32>(), groups).prop_map(|(uid, gid, groups)| Identity { uid, gid, groups })
    }

    fn spawn() -> impl Strategy<Value = Spawn> {
        let strings = || prop::collection::vec(bytes(), 0..5);
        let user = prop_oneof![
            Just(SpawnUser::Same),
            identity().prop_map(SpawnUser::Become),
            (any::<u32>(), ".{0,20}").prop_map(|(uid, reason)| SpawnUser::Impossible { uid, reason }),
        ];
        let directory = prop::option::of(bytes());
        let rest = (directory, any::<Option<u32>>(), user, any::<bool>(), any::<bool>());
        (any::<u64>(), bytes(), strings(), strings(), rest).prop_map(|(id, file, argv, env, rest)| {
            let (directory, umask, user, redirect_stderr, pipe) = rest;
            let stdin = if pipe { Stdin::Pipe } else { Stdin::Passed };
            Spawn { id, file, argv, env, directory, umask, user, redirect_stderr, stdin }
        })
    }

    fn request() -> impl Strategy<Value = Request> {
        let prepare = (prop::option::of(identity()), any::<Option<u64>>(), prop::option::of(bytes()));
        prop_oneof![
            prop::collection::vec(any::<u16>(), 0..4).prop_map(|versions| Request::Hello { versions }),
            prepare.prop_map(|(user, minfds, directory)| {
                Request::Prepare(Prepare { user, minfds, directory, ..Prepare::default() })
            }),
            spawn().prop_map(|spawn| Request::Spawn(Box::new(spawn))),
            (any::<u64>(), any::<i32>(), any::<bool>()).prop_map(|(id, signo, to_group)| Request::Signal {
                id,
                signo,
                to_group
            }),
            any::<u64>().prop_map(|id| Request::Release { id }),
            Just(Request::Ready),
            (".{0,9}", bytes()).prop_map(|(key, bytes)| Request::Stash { key, bytes }),
            any::<i32>().prop_map(|status| Request::Stop { status }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(request in request(), count in 0..=MAX_DESCRIPTORS) {
            let frame = encode(&request, count).unwrap();
            let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
            prop_assert_eq!((length, frame[4] as usize), (frame.len() - HEADER, count));
            prop_assert_eq!(decode::<Request>(&frame[HEADER..]).unwrap(), request);
        }

        #[test]
        fn garbage_is_an_error_or_a_value_and_never_a_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Request>(&payload);
            let _ = decode::<Event>(&payload);
        }

        #[test]
        fn a_byte_more_or_less_is_an_error(request in request()) {
            let frame = encode(&request, 0).unwrap();
            let longer = [&frame[HEADER..], &[0]].concat();
            prop_assert!(decode::<Request>(&longer).is_err());
            prop_assert!(decode::<Request>(&frame[HEADER..frame.len() - 1]).is_err());
        }
    }

    #[test]
    fn what_is_over_a_limit_is_not_encoded() {
        let huge = Request::Stash { key: String::new(), bytes: vec![0; MAX_PAYLOAD] };
        assert!(matches!(encode(&huge, 0), Err(FrameError::TooLong(_))));
        assert_eq!(encode(&Request::Ready, 254), Err(FrameError::TooManyDescriptors(254)));
    }
}
