use tracing::dispatcher::get_default;
use tracing::subscriber::NoSubscriber;

/// Emits a warning: as a `tracing` event, or on standard error if the program has no subscriber, where the event would be lost.
pub fn warn(message: &str) {
    match get_default(|subscriber| subscriber.is::<NoSubscriber>()) {
        true => eprintln!("warning: {message}"),
        false => tracing::warn!("{message}"),
    }
}
