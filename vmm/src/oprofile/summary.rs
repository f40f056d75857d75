//! What a person is told when the guest has ended.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use oprofile_device::{Account, Clock};
use oprofile_session::Archive;

use super::collector::CollectorResult;

const NS_PER_SECOND: u128 = 1_000_000_000;

/// Everything about a run with the profiling device.
#[derive(Debug)]
pub struct Summary {
    /// From the first entry into the guest to the stop of its last vCPU.
    pub wall: Duration,
    /// Exits of all vCPUs to the VMM.
    pub exits: u64,
    /// The device's account.
    pub account: Account,
    /// Nanoseconds between the samples of a busy vCPU that were asked for.
    pub period_ns: u64,
    /// Processor time of all vCPUs while they were being sampled, to the tenth of a second.
    pub sampled: Duration,
    /// What was to make vCPUs take samples.
    pub clock: Clock,
    /// The device id in use.
    pub device_id: u32,
    /// The session, if there was to be one.
    pub session: Option<SessionEnd>,
}

/// What became of the session.
#[derive(Debug)]
pub struct SessionEnd {
    /// Where it is.
    pub directory: PathBuf,
    /// How it ended; `None` when the collector had panicked.
    pub collector: Option<CollectorResult>,
}

impl Summary {
    /// Whether everything that was collected is in the session directory, if there was to be one.
    pub fn is_complete(&self) -> bool {
        self.session.as_ref().is_none_or(|session| {
            let collector = session.collector.as_ref();
            collector.is_some_and(|result| result.error.is_none())
        })
    }

    fn cost(&self, f: &mut fmt::Formatter<'_>, what: &str, count: u64) -> fmt::Result {
        let samples = self.account.received;
        if samples == 0 {
            return writeln!(f, "  {what:<18}{count:>12}");
        }
        let (integer, thousandths) = ratio(count, samples);
        writeln!(
            f,
            "  {what:<18}{count:>12}  {integer}.{thousandths:03} per sample"
        )
    }
}

impl Summary {
    /// Samples a second of a vCPU's time, and how many were asked for. A host that runs several vCPUs by turns on one processor
    /// gives more than it was asked for: whoever was kept from running is sampled first thing.
    fn rate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.sampled.as_nanos();
        if nanoseconds == 0 {
            return Ok(());
        }
        let rate = u128::from(self.account.received) * NS_PER_SECOND / nanoseconds;
        write!(
            f,
            "  {:<18}{rate:>12}  per second of vCPU time ({:.1} s), ",
            "rate",
            self.sampled.as_secs_f64()
        )?;
        match self.account.guest_clock_events {
            0 => {
                let asked = NS_PER_SECOND / u128::from(self.period_ns.max(1));
                writeln!(f, "{asked} asked for")
            }
            events => writeln!(f, "each {events} events by the guest's own counter"),
        }
    }

    /// What became of the host's clock, where it was wanted.
    fn host_clock(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = &self.account.clock;
        match (self.clock, clock.armed) {
            (Clock::GuestTimer, _) => Ok(()),
            (Clock::HostNmi, 0) if self.account.guest_clock_events != 0 => writeln!(
                f,
                "The guest's driver took no NMIs: a counter of its own was the clock, as its parameters want."
            ),
            (Clock::HostNmi, 0) => writeln!(
                f,
                "The guest's driver took no NMIs: its own timer was the clock, blind where interrupts are off."
            ),
            (Clock::HostNmi, _) => {
                writeln!(f, "Ticks of the host's clock:")?;
                for (name, count) in [
                    ("NMI sent", clock.sent),
                    ("vCPU idle", clock.idle),
                    ("NMI pending", clock.pending),
                    ("NMI refused", clock.refused),
                    ("missed", clock.missed),
                ] {
                    writeln!(f, "  {name:<18}{count:>12}")?;
                }
                Ok(())
            }
        }
    }
}

impl SessionEnd {
    fn collected(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(result) = &self.collector else {
            return writeln!(f, "The collector failed; the session is not complete.");
        };
        let stats = &result.stats;
        if stats.lost() != 0 {
            writeln!(
                f,
                "Of {} samples, {} are not in the session:",
                stats.samples,
                stats.lost()
            )?;
            for (name, count) in stats.pairs() {
                if count != 0 {
                    writeln!(f, "  {name:<18}{count:>12}")?;
                }
            }
        }
        let archive = &result.archive;
        if archive != &Archive::default() {
            writeln!(
                f,
                "Sampled files: {} copied and proven by build-id, {} copied by path alone, {} not copied",
                archive.proven, archive.unproven, archive.not_copied
            )?;
            for (name, why) in &archive.missing {
                writeln!(f, "  {}: {why}", name.escape_ascii())?;
            }
            let unnamed = archive.not_copied - archive.missing.len() as u64;
            if unnamed != 0 {
                writeln!(f, "  and {unnamed} more")?;
            }
        }
        if result.failed_flushes != 0 {
            writeln!(
                f,
                "{} writes of the session failed on the way.",
                result.failed_flushes
            )?;
        }
        if let Some(error) = &result.error {
            writeln!(
                f,
                "The session is not complete: {}",
                crate::report::Chain(error)
            )?;
        }
        Ok(())
    }
}

/// `count / samples` as an integer and thousandths.
fn ratio(count: u64, samples: u64) -> (u64, u64) {
    let rest = u128::from(count % samples) * 1000 / u128::from(samples);
    (count / samples, u64::try_from(rest).unwrap_or(999))
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let account = &self.account;
        writeln!(f, "Wall time {:.3} s", self.wall.as_secs_f64())?;
        self.cost(f, "exits", self.exits)?;
        if !account.said_hello {
            return writeln!(
                f,
                "No profile: the guest never said hello to the profiling device. Check that its kernel has the agent, that both \
                 sides use the same device id (device-id={id} here, oprofile.device-id= in the guest), and that its kernel \
                 command line still has virtio_mmio.device=.",
                id = self.device_id
            );
        }
        self.cost(f, "kicks", account.kicks)?;
        self.cost(f, "doorbells", account.doorbells)?;
        self.rate(f)?;
        self.host_clock(f)?;
        writeln!(f, "Account of samples:")?;
        writeln!(f, "  {:<18}{:>12}", "received", account.received)?;
        for (name, count) in account.ends() {
            writeln!(f, "  {name:<18}{count:>12}")?;
        }
        let verdict = if account.adds_up() {
            "received = sum of all ends"
        } else {
            "DOES NOT ADD UP"
        };
        writeln!(f, "  {:<18}{:>12}  {verdict}", "sum", account.ends_sum())?;
        for (fault, count) in account.faults.iter() {
            if count != 0 {
                writeln!(f, "  fault {}: {count}", fault.name())?;
            }
        }
        let Some(session) = &self.session else {
            return writeln!(
                f,
                "No session was asked for: the profile went to readers of the control socket."
            );
        };
        session.collected(f)?;
        let session = session.directory.display();
        writeln!(f, "Session: {session}")?;
        writeln!(f, "Next: opreport --session-dir={session} -l")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oprofile_session::{CollectorStats, Missing};

    fn summary(said_hello: bool) -> Summary {
        let mut account = Account {
            said_hello,
            received: 200,
            kicks: 3,
            lost: 150,
            ..Account::default()
        };
        account.sync.file = 50;
        Summary {
            wall: Duration::from_millis(1500),
            exits: 1000,
            account,
            period_ns: 1_000_000,
            sampled: Duration::from_secs(2),
            clock: Clock::GuestTimer,
            device_id: 63,
            session: Some(SessionEnd {
                directory: "/tmp/s".into(),
                collector: Some(CollectorResult {
                    stats: CollectorStats::default(),
                    failed_flushes: 0,
                    archive: Archive::default(),
                    error: None,
                }),
            }),
        }
    }

    #[test]
    fn the_account_and_its_cost_are_told() {
        let text = summary(true).to_string();
        for part in [
            "Wall time 1.500 s",
            "1000  5.000 per sample",
            "3  0.015 per sample",
            "received = sum of all ends",
            "opreport --session-dir=/tmp/s -l",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn an_account_that_does_not_add_up_is_told() {
        let mut summary = summary(true);
        summary.account.received += 1;
        assert!(summary.to_string().contains("DOES NOT ADD UP"));
    }

    #[test]
    fn the_real_rate_is_told_beside_the_one_asked_for() {
        let mut summary = summary(true);
        summary.account.received = 1_950;
        let text = summary.to_string();
        assert!(
            text.contains(" 975  per second of vCPU time (2.0 s), 1000 asked for"),
            "{text}"
        );
        summary.sampled = Duration::ZERO;
        assert!(!summary.to_string().contains("rate"));
    }

    #[test]
    fn no_rate_was_asked_for_where_the_guests_own_counter_is_the_clock() {
        let mut summary = summary(true);
        summary.account.guest_clock_events = 3_000_000;
        summary.clock = Clock::HostNmi;
        let text = summary.to_string();
        assert!(!text.contains("asked for"), "{text}");
        assert!(text.contains("(2.0 s), each 3000000 events by"), "{text}");
        assert!(
            text.contains("a counter of its own was the clock"),
            "{text}"
        );
    }

    #[test]
    fn the_hosts_clock_is_told_where_it_was_wanted() {
        let mut summary = summary(true);
        summary.account.clock.sent = 77;
        assert!(!summary.to_string().contains("NMI"));
        summary.clock = Clock::HostNmi;
        assert!(summary.to_string().contains("took no NMIs: its own timer"));
        summary.account.clock.armed = 1;
        let text = summary.to_string();
        assert!(text.contains("NMI sent") && text.contains("77"), "{text}");
    }

    #[test]
    fn a_guest_that_never_said_hello_gets_advice() {
        let text = summary(false).to_string();
        assert!(text.contains("never said hello"));
        assert!(text.contains("device-id=63"));
        assert!(!text.contains("opreport"));
    }

    #[test]
    fn files_that_are_not_in_the_session_are_named_with_the_reason() {
        let mut summary = summary(true);
        assert!(!summary.to_string().contains("Sampled files"));
        let session = summary.session.as_mut().unwrap();
        session.collector.as_mut().unwrap().archive = Archive {
            proven: 3,
            unproven: 1,
            not_copied: 40,
            missing: vec![(b"/bin/\x1ba".to_vec(), Missing::OtherBuild)],
        };
        let text = summary.to_string();
        for part in [
            "Sampled files: 3 copied and proven by build-id, 1 copied by path alone, 40 not copied",
            "  /bin/\\x1ba: found with another build-id",
            "  and 39 more",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_session_without_a_collector_is_incomplete() {
        let mut summary = summary(true);
        assert!(summary.is_complete());
        if let Some(session) = &mut summary.session {
            session.collector = None;
        }
        assert!(!summary.is_complete());
    }

    #[test]
    fn without_a_session_none_is_incomplete_and_none_is_recommended() {
        let mut summary = summary(true);
        summary.session = None;
        assert!(summary.is_complete());
        let text = summary.to_string();
        assert!(
            text.contains("control socket") && !text.contains("opreport"),
            "{text}"
        );
    }
}
