use super::one_line;
use sha2::{Digest, Sha256};
use std::fs;
use taper::hooks::{Recorder, Rng};
use taper::train::{Checkpoint, Progress};

type State = (Rng, Progress, Recorder);

/// `state.json` of a checkpoint whose checksums are right, so that what it says is all that can be wrong with it.
pub fn check(bytes: &[u8]) {
    super::with_file(b"", |file| {
        let dir = file.with_extension("checkpoint");
        fs::create_dir_all(&dir).expect("a temporary directory");
        let mut sums = String::new();
        for (name, bytes) in
            [("model.safetensors", &b"m"[..]), ("optimizer.safetensors", b"o"), ("state.json", bytes)]
        {
            fs::write(dir.join(name), bytes).expect("a temporary file");
            let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            sums += &format!("{sum}  {name}\n");
        }
        fs::write(dir.join("SHA256SUMS"), sums).expect("a temporary file");
        match Checkpoint::<State>::read(&dir) {
            Err(error) => one_line(&error),
            Ok(read) => {
                // What was read is written and read again as it was, and can be asked.
                let (rng, progress, mut recorder) = read.state;
                let text = serde_json::to_string(&(&rng, &progress, &recorder)).expect("numbers and names");
                let again: State = serde_json::from_str(&text).expect("its own text");
                assert_eq!(serde_json::to_string(&again).expect("numbers and names"), text);
                let _ = (progress.report(), recorder.finish());
            }
        }
    });
}
