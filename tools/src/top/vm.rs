//! What the VM itself says of its samples: each loss by its name, each vCPU, and how fast they grow.

use std::time::Duration;

use oprofile_control::Status;
use oprofile_control::status::Counter;

use super::snapshot::LOSSES;
use crate::looks::Look;

/// How fast something grows, in tenths a second. Unknown before the second look.
pub type Rate = Option<u64>;

/// A number that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figure {
    /// Its name in the account.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// How fast it has grown since the look before.
    pub rate: Rate,
}

/// A vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpu {
    /// Samples since the look before; all of them at the first one.
    pub recent: u64,
    /// How fast they have come.
    pub rate: Rate,
    /// All samples.
    pub received: u64,
    /// Samples lost in the guest for want of a buffer.
    pub lost: u64,
}

/// The VM's last look, and the one before.
#[derive(Debug)]
pub struct Vm {
    now: Box<Look>,
    before: Option<Box<Look>>,
}

impl Vm {
    /// After the first look.
    pub fn new(look: Box<Look>) -> Self {
        Self {
            now: look,
            before: None,
        }
    }

    /// After another one.
    pub fn look(&mut self, look: Box<Look>) {
        self.before = Some(std::mem::replace(&mut self.now, look));
    }

    /// What the VM said last.
    pub fn status(&self) -> &Status {
        &self.now.status
    }

    /// Samples that have reached the device or were lost on the way.
    pub fn received(&self) -> Figure {
        self.figure("received", self.value("received"))
    }

    /// Every counter of samples that reach no session: all of the device's, and those of the collector's that are not 0.
    pub fn losses(&self) -> Vec<Figure> {
        let wanted = LOSSES.iter().filter_map(|name| {
            let value = self.value(name).unwrap_or(0);
            let of_device = value_in(&self.now.status.account, name).is_some();
            (of_device || value > 0).then(|| self.figure(name, Some(value)))
        });
        wanted.collect()
    }

    /// The sum of the losses.
    pub fn lost(&self) -> Figure {
        let losses = self.losses();
        let sum = |sum: u64, value: u64| sum.saturating_add(value);
        let value = losses.iter().map(|loss| loss.value).fold(0, sum);
        let rates = losses.iter().map(|loss| loss.rate);
        Figure {
            name: "lost",
            value,
            rate: self
                .elapsed()
                .map(|_| rates.map(Option::unwrap_or_default).fold(0, sum)),
        }
    }

    /// The vCPUs, in order.
    pub fn vcpus(&self) -> Vec<Vcpu> {
        let before = self.before.as_ref().map(|look| &look.status.vcpus);
        let vcpus = self.now.status.vcpus.iter().enumerate();
        vcpus
            .map(|(index, vcpu)| {
                let before = before
                    .and_then(|vcpus| vcpus.get(index))
                    .map_or(0, |vcpu| vcpu.received);
                let recent = since(vcpu.received, before);
                Vcpu {
                    recent,
                    rate: self.rate(recent),
                    received: vcpu.received,
                    lost: vcpu.lost,
                }
            })
            .collect()
    }

    fn figure(&self, name: &'static str, value: Option<u64>) -> Figure {
        let value = value.unwrap_or(0);
        let before = self
            .before
            .as_ref()
            .and_then(|look| value_of(&look.status, name));
        Figure {
            name,
            value,
            rate: self.rate(since(value, before.unwrap_or(0))),
        }
    }

    fn value(&self, name: &str) -> Option<u64> {
        value_of(&self.now.status, name)
    }

    /// Between the two looks; `None` when that is no time.
    fn elapsed(&self) -> Option<Duration> {
        let elapsed = self.now.at.checked_sub(self.before.as_ref()?.at)?;
        (!elapsed.is_zero()).then_some(elapsed)
    }

    fn rate(&self, grown: u64) -> Rate {
        /// Tenths of a second in nanoseconds, the other way round: what 1 in 1 ns is.
        const TENTHS: u128 = 10_000_000_000;
        let elapsed = self.elapsed()?.as_nanos();
        let tenths = u128::from(grown).saturating_mul(TENTHS) / elapsed;
        Some(u64::try_from(tenths).unwrap_or(u64::MAX))
    }
}

/// How much a counter has grown. The collector's begin anew with each session.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn value_in(counters: &[Counter], name: &str) -> Option<u64> {
    let counter = counters.iter().find(|counter| counter.name == name)?;
    Some(counter.value)
}

fn value_of(status: &Status, name: &str) -> Option<u64> {
    value_in(&status.account, name).or_else(|| value_in(&status.collector, name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::control::tests;
    use oprofile_control::status::VcpuStatus;

    /// A look at two vCPUs, half a second behind the one before.
    pub(crate) fn look(number: u32, vcpus: [u64; 2], losses: &[(&str, u64)]) -> Box<Look> {
        let received = vcpus.iter().sum();
        let mut status = tests::status(received);
        let vcpu = |received| VcpuStatus {
            received,
            ..VcpuStatus::default()
        };
        status.vcpus = vcpus.map(vcpu).into();
        for (name, value) in losses {
            let counters = match name.starts_with("collector_") {
                true => &mut status.collector,
                false => &mut status.account,
            };
            counters.push(Counter {
                name: (*name).to_owned(),
                value: *value,
            });
        }
        Box::new(Look {
            status,
            at: Duration::from_millis(500) * number,
        })
    }

    fn figures(vm: &Vm) -> Vec<(&str, u64, Rate)> {
        let losses = vm.losses().into_iter();
        losses
            .map(|loss| (loss.name, loss.value, loss.rate))
            .collect()
    }

    #[test]
    fn rates_are_between_the_last_two_looks() {
        let mut vm = Vm::new(look(0, [100, 0], &[("raced", 0), ("no_mm", 4)]));
        assert_eq!(vm.received().rate, None);
        assert_eq!(figures(&vm), [("no_mm", 4, None), ("raced", 0, None)]);
        assert_eq!((vm.lost().value, vm.lost().rate), (4, None));
        vm.look(look(1, [150, 30], &[("raced", 2), ("no_mm", 4)]));
        assert_eq!((vm.received().value, vm.received().rate), (180, Some(1600)));
        assert_eq!(
            figures(&vm),
            [("no_mm", 4, Some(0)), ("raced", 2, Some(40))]
        );
        assert_eq!((vm.lost().value, vm.lost().rate), (6, Some(40)));
        let vcpus = vm.vcpus().into_iter();
        let vcpus: Vec<_> = vcpus.map(|vcpu| (vcpu.recent, vcpu.rate)).collect();
        assert_eq!(vcpus, [(50, Some(1000)), (30, Some(600))]);
    }

    #[test]
    fn losses_of_the_collector_are_there_once_they_are_some_and_begin_anew() {
        let collector = "collector_no_region";
        let mut vm = Vm::new(look(0, [9, 9], &[(collector, 0)]));
        assert!(figures(&vm).is_empty());
        vm.look(look(1, [9, 9], &[(collector, 5)]));
        assert_eq!(figures(&vm), [(collector, 5, Some(100))]);
        // The session was reset meanwhile.
        vm.look(look(2, [9, 9], &[(collector, 2)]));
        assert_eq!(figures(&vm), [(collector, 2, Some(40))]);
    }

    #[test]
    fn looks_at_the_same_time_have_no_rates() {
        let mut vm = Vm::new(look(1, [1, 1], &[]));
        vm.look(look(1, [2, 2], &[]));
        assert_eq!(vm.received().rate, None);
    }
}
