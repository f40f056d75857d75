//! What the collector's thread tells the server when it has obeyed.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use oprofile_session::CollectorError;
use vmm_sys_util::eventfd::EventFd;

use super::control::After;

/// Told in place of a result when there will be none.
const ENDED: &str = "The collector has ended; the session is not complete";

/// The collector has obeyed, or will not.
#[derive(Debug)]
pub(super) struct Completion {
    /// Who waits for it.
    pub(super) client: u64,
    /// Of its request.
    pub(super) id: u64,
    pub(super) after: After,
    pub(super) result: Result<(), String>,
}

/// A completion that is owed to the server. A collector that ends drops its orders, and whoever waited for one would wait for
/// ever: dropped, it tells that nothing comes.
#[derive(Debug)]
pub(super) struct Promise {
    owed: Option<Completion>,
    completions: Sender<Completion>,
    wake: Arc<EventFd>,
}

impl Promise {
    /// For the request `id` of `client`.
    pub(super) fn new(
        (client, id): (u64, u64),
        after: After,
        completions: Sender<Completion>,
        wake: Arc<EventFd>,
    ) -> Self {
        let owed = Completion {
            client,
            id,
            after,
            result: Err(ENDED.to_owned()),
        };
        Self {
            owed: Some(owed),
            completions,
            wake,
        }
    }

    /// Tells how it went.
    pub(super) fn keep(mut self, result: Result<(), CollectorError>) {
        if let Some(owed) = &mut self.owed {
            owed.result = result.map_err(|error| crate::report::Chain(&error).to_string());
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if let Some(owed) = self.owed.take() {
            // Fails when the server has ended.
            let _ = self.completions.send(owed);
            let _ = self.wake.write(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_promise_is_kept_or_told_to_be_broken() {
        let (sender, receiver) = channel();
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let promise = |id| Promise::new((7, id), After::Answer, sender.clone(), Arc::clone(&wake));
        promise(1).keep(Ok(()));
        drop(promise(2));
        let told: Vec<_> = receiver.try_iter().collect();
        let told: Vec<_> = told
            .iter()
            .map(|told| (told.client, told.id, &told.result))
            .collect();
        assert_eq!(told, [(7, 1, &Ok(())), (7, 2, &Err(ENDED.to_owned()))]);
        assert_eq!(wake.read().unwrap(), 2);
    }
}
