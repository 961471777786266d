//! Pictures of training runs: an offline page, static plots and a live terminal view.
