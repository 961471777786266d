use tracing::dispatcher::get_default;
use tracing::subscriber::NoSubscriber;

/// Tells the user what is no error, but must not pass in silence: as a `tracing` event, or on standard error if the program
/// has set no subscriber, where the event would be lost.
pub fn warn(message: &str) {
    match get_default(|subscriber| subscriber.is::<NoSubscriber>()) {
        true => eprintln!("warning: {message}"),
        false => tracing::warn!("{message}"),
    }
}
