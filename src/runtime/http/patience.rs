//! The timer that bounds how long a header may take, for one connection.
//!
//! hyper asks for a new sleep before each request of a kept connection and drops it when the header is there. To arm one in the runtime's wheel and
//! take it out again for every request costs more than our own part of a count. Here the connection has one sleep in the wheel, armed once and left there; a
//! request only says when its header is due. A sleep that ends before what is due is armed for the rest: once in a timeout, not in a request.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// The timer of one connection.
#[derive(Debug, Default)]
pub(super) struct Patience {
    armed: Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>,
}

/// Until an instant, by the sleep that its connection has.
struct Due {
    at: Instant,
    armed: Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>,
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, at: Instant) -> Pin<Box<dyn Sleep>> {
        let armed = Arc::clone(&self.armed);
        Box::pin(Due { at, armed })
    }

    fn now(&self) -> Instant {
        // The runtime's, which tests may pause.
        tokio::time::Instant::now().into()
    }
}

impl Sleep for Due {}

impl Future for Due {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at = self.at.into();
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let sleep = armed.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        // One that is armed for later than this must not end it late.
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        loop {
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    async fn advance(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_its_whole_time_whatever_the_ones_before_it_left() {
        let timer = Patience::default();
        for _ in 0..5 {
            let mut due = timer.sleep(TIMEOUT);
            assert!(futures_util::poll!(&mut due).is_pending());
            advance(50).await;
            assert!(futures_util::poll!(&mut due).is_pending());
        }
        let mut due = timer.sleep(TIMEOUT);
        assert!(futures_util::poll!(&mut due).is_pending());
        advance(59).await;
        assert!(futures_util::poll!(&mut due).is_pending());
        advance(2).await;
        assert!(futures_util::poll!(&mut due).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_is_woken_though_the_sleep_was_armed_for_an_earlier_request() {
        let timer = Patience::default();
        let begun = tokio::time::Instant::now();
        assert!(futures_util::poll!(timer.sleep(TIMEOUT)).is_pending());
        advance(30).await;
        timer.sleep(TIMEOUT).await;
        assert_eq!(begun.elapsed().as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_one_is_not_late() {
        let timer = Patience::default();
        let begun = tokio::time::Instant::now();
        assert!(futures_util::poll!(timer.sleep(TIMEOUT)).is_pending());
        timer.sleep(Duration::from_secs(1)).await;
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
}
