//! Random sessions: whatever is asked, in whatever order, the rules hold.

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const CPUS: u16 = 3;

#[derive(Clone, Debug)]
enum Action {
    Open(Caller),
    Close,
    Read(String, u64, u64),
    Write(String, u64, Vec<u8>),
    ReadBuffer,
    Tick(u64),
    Online(Vec<u16>),
    Bury,
    Lookup(Caller, u64, u64),
    SetUpFails(bool),
    StartFails(bool),
    SetSyncStart(SyncStart),
    SetSyncStop(SyncStop),
    Walker(bool),
}

fn path() -> impl Strategy<Value = String> {
    let listed: Vec<_> = files(CPUS)
        .list()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    prop_oneof![
        12 => select(listed),
        1 => "(stats/)?(cpu[0-9]{0,2}/)?[a-z_]{0,12}/?",
        1 => any::<String>(),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "(0x)?[0-9]{0,6}\n?".prop_map(String::into_bytes),
        2 => (0u32..3).prop_map(|value| value.to_string().into_bytes()),
        1 => any::<u64>().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..60),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    prop_oneof![9 => Just(Caller::Administrator), 1 => Just(Caller::Other)]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![8 => Just(0), 1 => 0u64..10, 1 => any::<u64>()]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.2)
}

fn action() -> impl Strategy<Value = Action> {
    use Action::*;
    prop_oneof![
        6 => caller().prop_map(Open),
        3 => Just(Close),
        6 => (path(), offset(), prop_oneof![0u64..5000, any::<u64>()])
            .prop_map(|(path, offset, count)| Read(path, offset, count)),
        10 => (path(), offset(), bytes())
            .prop_map(|(path, offset, bytes)| Write(path, offset, bytes)),
        6 => select(vec!["0", "1", "1"]).prop_map(|text| Write("enable".into(), 0, text.into())),
        4 => Just(ReadBuffer),
        8 => prop_oneof![9 => 0u64..300, 1 => 0u64..5000].prop_map(Tick),
        2 => prop::collection::vec(0..CPUS, 0..4).prop_map(Online),
        3 => Just(Bury),
        2 => (caller(), 6u64..9, 0u64..20).prop_map(|(caller, cookie, room)| Lookup(caller, cookie, room)),
        1 => rarely().prop_map(SetUpFails),
        1 => rarely().prop_map(StartFails),
        1 => select(vec![
            SyncStart::Generic, SyncStart::Generic, SyncStart::Generic, SyncStart::ByDriver, SyncStart::Failed,
        ]).prop_map(SetSyncStart),
        1 => select(vec![SyncStop::ByDriver, SyncStop::Generic, SyncStop::Generic]).prop_map(SetSyncStop),
        1 => any::<bool>().prop_map(Walker),
    ]
}

/// The hooks' failures, which must come through as they are.
const SET_UP: ControlError = ControlError::Driver(-5);
const START: ControlError = ControlError::Driver(-19);

/// What a session must remember to judge an answer.
#[derive(Default)]
struct Judge {
    buried: u64,
    refused_busy: u64,
}

impl Judge {
    fn act(&mut self, files: &mut ControlFiles<Recorder>, action: Action) {
        let started = files.life_cycle().is_started();
        let open = files.life_cycle().is_open();
        let values = *files.life_cycle().values();
        match action {
            Action::Open(caller) => match files.open_event_buffer(caller) {
                Err(ControlError::NotPermitted) => assert_eq!(caller, Caller::Other),
                Err(ControlError::Busy) => assert!(open),
                Err(ControlError::Invalid) => {
                    assert!(values.buffer_watershed >= values.buffer_size);
                    assert!(!files.life_cycle().is_open());
                }
                Err(error) => {
                    let refusals = [SET_UP, ControlError::OutOfMemory];
                    assert!(refusals.contains(&error), "{error:?}");
                    assert!(!files.life_cycle().is_open());
                }
                Ok(()) => assert!(!open && files.life_cycle().is_open()),
            },
            Action::Close => {
                assert_eq!(files.close_event_buffer().is_ok(), open);
                assert!(!files.profiler().events.is_allocated());
                assert!(!open || !files.profiler().events.is_ready());
            }
            Action::Read(path, offset, count) => {
                let read = files.read(&path, offset, count);
                if let Ok(bytes) = &read {
                    assert!(bytes.len() as u64 <= count);
                }
                assert!(!matches!(
                    read,
                    Err(ControlError::Busy | ControlError::NotPermitted)
                ));
            }
            Action::Write(path, offset, bytes) => match files.write(&path, offset, &bytes) {
                Ok(count) => assert_eq!(count, bytes.len()),
                Err(ControlError::Busy) => {
                    assert!(started, "busy only while started");
                    self.refused_busy += 1;
                }
                Err(error) => {
                    let allowed = [
                        ControlError::Invalid,
                        ControlError::NoSuchFile,
                        ControlError::IsDirectory,
                        START,
                    ];
                    assert!(allowed.contains(&error), "{path}: {error:?}");
                }
            },
            Action::ReadBuffer => {
                let ready = files.profiler().events.is_ready();
                let exists = files.profiler().events.is_allocated();
                let count = files.life_cycle().read_bytes();
                match files.read_event_buffer(0, count) {
                    Ok(words) => {
                        assert!(ready && exists && words.len() as u64 * 8 <= count);
                        assert!(words.iter().all(|&word| word < u64::from(CPUS)));
                        assert!(!files.profiler().events.is_ready());
                    }
                    Err(ControlError::WouldWait) => assert!(!ready),
                    Err(error) => {
                        assert_eq!(error, ControlError::Interrupted);
                        assert!(ready && !exists);
                    }
                }
            }
            Action::Tick(jiffies) => {
                let before = files.life_cycle().now();
                files.profiler_mut().take_steps();
                files.tick(jiffies);
                assert_eq!(files.life_cycle().now(), before + jiffies);
                let most = (jiffies / SYNC_PERIOD_JIFFIES + 1) * u64::from(CPUS);
                let syncs = files.profiler_mut().take_steps().len() as u64;
                assert!(syncs <= most, "{syncs} syncs in {jiffies} jiffies");
            }
            Action::Online(online) => {
                let profiler = files.profiler_mut();
                profiler
                    .mortuary
                    .set_online(online.iter().copied().collect());
                profiler.online = online;
            }
            Action::Bury => {
                self.buried += 1;
                let profiler = files.profiler_mut();
                profiler.freed.extend(profiler.mortuary.bury(self.buried));
            }
            Action::Lookup(caller, cookie, room) => {
                let found = files.lookup_dcookie(caller, cookie, room);
                let known = caller == Caller::Administrator && open && cookie == 7 && room >= 7;
                assert_eq!(found.is_ok(), known);
            }
            Action::SetUpFails(fails) => {
                files.profiler_mut().set_up = if fails { Err(SET_UP) } else { Ok(()) };
            }
            Action::StartFails(fails) => {
                files.profiler_mut().start = if fails { Err(START) } else { Ok(()) };
            }
            Action::SetSyncStart(answer) => files.profiler_mut().sync_start = answer,
            Action::SetSyncStop(answer) => files.profiler_mut().sync_stop = answer,
            Action::Walker(there) => files.profiler_mut().walker = there,
        }
        self.check(files, started, &values);
    }

    /// What holds between any two actions.
    fn check(&self, files: &ControlFiles<Recorder>, was_started: bool, before: &Values) {
        let (cycle, profiler) = (files.life_cycle(), files.profiler());
        assert!(!cycle.is_started() || cycle.is_open());
        assert_eq!(profiler.cookies, cycle.is_open());
        // Settings stand still from a start to the next stop.
        assert!(!(was_started && cycle.is_started()) || cycle.values() == before);
        // Nobody dies twice, and nobody is forgotten.
        let mortuary = &profiler.mortuary;
        let waiting = mortuary.dying().count() + mortuary.dead().count();
        assert_eq!(
            profiler.freed.len() + waiting,
            usize::try_from(self.buried).unwrap()
        );
        // While the life cycle syncs, something is always due, within a period.
        let due = cycle.next_due();
        assert!(
            due.is_none_or(|due| due <= SYNC_PERIOD_JIFFIES + u64::from(CPUS)
                || due <= cycle.values().time_slice)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_session_keeps_the_rules(actions in prop::collection::vec(action(), 1..80)) {
        let mut files = files(CPUS);
        files.profiler_mut().switches_left = 1_000;
        let list = files.list();
        let mut judge = Judge::default();
        for action in actions {
            judge.act(&mut files, action);
            prop_assert_eq!(&files.list(), &list);
        }
        // However it went, an end can be made, after which everything is as at the beginning.
        files.profiler_mut().sync_stop = SyncStop::Generic;
        files.profiler_mut().sync_start = SyncStart::Generic;
        files.profiler_mut().set_up = Ok(());
        files.profiler_mut().start = Ok(());
        let _ = files.close_event_buffer();
        for (path, text) in [("buffer_size", "64"), ("buffer_watershed", "8")] {
            prop_assert!(write(&mut files, path, text).is_ok());
        }
        prop_assert_eq!(files.open_event_buffer(Caller::Administrator), Ok(()));
        prop_assert_eq!(files.start(), Ok(()));
        prop_assert_eq!(text(&mut files, "enable"), "1\n");
        prop_assert_eq!(files.close_event_buffer(), Ok(()));
        let mortuary = &files.profiler().mortuary;
        prop_assert_eq!(mortuary.dying().count() + mortuary.dead().count(), 0);
    }
}

/// The generator reaches what the rules are about; else they would hold for want of cases.
#[test]
fn random_sessions_do_start_and_are_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut started, mut read, mut busy) = (0, 0, 0);
    for _ in 0..200 {
        let actions = prop::collection::vec(action(), 80)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut files = files(CPUS);
        let mut judge = Judge::default();
        for action in actions {
            let pending = files.profiler().events.pending().len();
            let reads = matches!(action, Action::ReadBuffer) && files.profiler().events.is_ready();
            judge.act(&mut files, action);
            started += u32::from(files.life_cycle().is_started());
            read += u32::from(reads && pending > 0);
        }
        busy += judge.refused_busy;
    }
    assert!(
        started > 1_000 && read > 20 && busy > 20,
        "{started} {read} {busy}"
    );
}
