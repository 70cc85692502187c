//! The end of serving, as everybody hears of it who has something open-ended going on.

use tokio::sync::watch;

#[derive(Clone, Debug)]
pub(super) struct Closing(watch::Receiver<bool>);

impl Closing {
    pub(super) fn new() -> (watch::Sender<bool>, Closing) {
        let (close, closing) = watch::channel(false);
        (close, Closing(closing))
    }

    pub(super) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it has begun, also where its sender is gone.
    pub(super) async fn begun(&mut self) {
        let _ = self.0.wait_for(|closing| *closing).await;
    }
}
