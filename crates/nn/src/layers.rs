use std::fmt;
use std::str::FromStr;

use taper_kernels::{Activation, Conv2dGeometry, Error};

/// One layer of a network without its sizes, which follow from its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layer {
    /// A 2-d convolution: `conv 5 pad 2 stride 1`, `conv 3x5` for 3 rows and 5 columns.
    Conv {
        /// (rows, columns) of a kernel, in pixels.
        kernel: (usize, usize),
        /// Stride and zero padding, the same in both directions.
        geometry: Conv2dGeometry,
    },
    /// A fully connected layer: `linear`. Feature maps are flattened before it.
    Linear,
    /// Batch normalisation of channels or features: `batch_norm eps 1e-5`.
    BatchNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// Max-pooling: `max_pool 2`, `max_pool 3 stride 2`.
    MaxPool {
        /// Side of the window, in pixels.
        window: usize,
        /// Step between windows, in pixels; the default is the window.
        stride: usize,
    },
    /// Average pooling: `avg_pool 2`, `avg_pool 3 stride 2`.
    AvgPool {
        /// Side of the window, in pixels.
        window: usize,
        /// Step between windows, in pixels; the default is the window.
        stride: usize,
    },
    /// The mean of each map: `global_avg_pool`.
    GlobalAvgPool,
    /// Maps to features: `flatten`. It may be left out before a linear layer.
    Flatten,
    /// Inverted dropout: `dropout 0.5`; the identity in evaluation mode.
    Dropout {
        /// Probability of being dropped, in `[0, 1)`.
        rate: f64,
    },
    /// An activation function by its name: `relu`, `leaky_relu:0.1`.
    Act(Activation),
}

/// The layers of a network in their order, which the tensors of a file do not show.
///
/// Parsed from and printed as text, with commas between layers and without default options.
///
/// ```
/// use taper_nn::Layers;
///
/// let layers: Layers = "conv 5 pad 2, relu, max_pool 2 stride 2, dropout 0.25, linear".parse()?;
/// assert_eq!(layers.to_string(), "conv 5 pad 2, relu, max_pool 2, dropout 0.25, linear");
/// let error = "conv 5 pod 2, relu".parse::<Layers>().unwrap_err().to_string();
/// assert_eq!(error, "layers: column 8: expected pad, stride or a comma, found 'pod'");
/// # Ok::<(), taper_kernels::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layers(pub Vec<Layer>);

const LAYERS: &str = "conv, linear, batch_norm, max_pool, avg_pool, global_avg_pool, flatten, dropout or an activation function";
/// Larger sizes are typing errors.
const LARGEST: usize = 65_536;
/// PyTorch's default.
const EPS: f64 = 1e-5;

impl FromStr for Layers {
    type Err = Error;

    /// # Errors
    /// An error with the column of the text, from 1.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut start = 0;
        let layer = |item: &str| {
            let words = Words { text, rest: item, at: start };
            start += item.len() + 1;
            words.layer()
        };
        text.split(',').map(layer).collect::<Result<_, _>>().map(Self)
    }
}

/// The remaining words of one layer.
struct Words<'a> {
    text: &'a str,
    rest: &'a str,
    /// The offset of `rest` in `text`, in bytes.
    at: usize,
}

impl<'a> Words<'a> {
    fn layer(mut self) -> Result<Layer, Error> {
        let name = self.peek();
        self.next();
        let layer = match name {
            "conv" => {
                let kernel = self.kernel()?;
                let [padding, stride] = self.options(["pad", "stride"], [0, 1])?;
                let geometry = Conv2dGeometry { stride: stride.unwrap_or(1), padding: padding.unwrap_or(0) };
                Layer::Conv { kernel, geometry }
            }
            "linear" => Layer::Linear,
            "batch_norm" => {
                let [eps] = self.options(["eps"], [0.0])?;
                Layer::BatchNorm { eps: eps.unwrap_or(EPS) }
            }
            "max_pool" | "avg_pool" => {
                let window = self.value("the side of a window, a whole number of at least 1", side)?;
                let [stride] = self.options(["stride"], [1])?;
                let stride = stride.unwrap_or(window);
                match name {
                    "max_pool" => Layer::MaxPool { window, stride },
                    _ => Layer::AvgPool { window, stride },
                }
            }
            "global_avg_pool" => Layer::GlobalAvgPool,
            "flatten" => Layer::Flatten,
            "dropout" => {
                let rate = |text: &str| text.parse().ok().filter(|rate| (0.0..1.0).contains(rate));
                Layer::Dropout { rate: self.value("a rate of at least 0 and below 1", rate)? }
            }
            "softmax" | "log_softmax" => {
                let message = format!("expected no '{name}': leave it out, the loss applies it");
                return self.fault(name, &message);
            }
            _ => match name.parse() {
                Ok(activation) => Layer::Act(activation),
                // A name with a parameter is an activation, whose parser reports errors.
                Err(error) if name.contains(':') || error.to_string().contains("did you mean") => {
                    return self.fault(name, &error.to_string());
                }
                Err(_) => return self.fault(name, &format!("expected {LAYERS}, found {}", quoted(name))),
            },
        };
        match self.peek() {
            "" => Ok(layer),
            more => self.fault(more, &format!("expected a comma, found {}", quoted(more))),
        }
    }

    /// The next word, empty at the end.
    fn peek(&mut self) -> &'a str {
        let trimmed = self.rest.trim_start();
        self.at += self.rest.len() - trimmed.len();
        self.rest = trimmed;
        trimmed.split(char::is_whitespace).next().unwrap_or("")
    }

    fn next(&mut self) {
        let length = self.peek().len();
        self.at += length;
        self.rest = &self.rest[length..];
    }

    fn value<T>(&mut self, expected: &str, read: impl Fn(&str) -> Option<T>) -> Result<T, Error> {
        let word = self.peek();
        let Some(value) = read(word) else {
            return self.fault(word, &format!("expected {expected}, found {}", quoted(word)));
        };
        self.next();
        Ok(value)
    }

    fn kernel(&mut self) -> Result<(usize, usize), Error> {
        self.value("the size of a kernel, such as 5 or 3x5", |word| match word.split_once('x') {
            Some((rows, columns)) => Some((side(rows)?, side(columns)?)),
            None => side(word).map(|side| (side, side)),
        })
    }

    /// The values of options, each a name and a number of at least `least`, in any order.
    fn options<T: Copy + PartialOrd + FromStr + fmt::Display + Limited, const N: usize>(
        &mut self,
        names: [&str; N],
        least: [T; N],
    ) -> Result<[Option<T>; N], Error> {
        let mut values = [None; N];
        loop {
            let word = self.peek();
            let Some(i) = names.iter().position(|name| *name == word) else {
                if word.is_empty() {
                    return Ok(values);
                }
                let expected = names.join(", ");
                return self.fault(word, &format!("expected {expected} or a comma, found {}", quoted(word)));
            };
            if values[i].is_some() {
                return self.fault(word, &format!("expected {} once", quoted(word)));
            }
            self.next();
            let good = |x: &T| *x >= least[i] && x.is_within_limits();
            let expected = format!("{} of at least {}", names[i], least[i]);
            values[i] = Some(self.value(&expected, |word| word.parse().ok().filter(good))?);
        }
    }

    /// An error at `word`, the next or the previous one.
    fn fault<T>(&self, word: &str, message: &str) -> Result<T, Error> {
        let at = if self.rest.starts_with(word) { self.at } else { self.at - word.len() };
        let column = self.text[..at].chars().count() + 1;
        Err(Error::Argument(format!("layers: column {column}: {message}")))
    }
}

trait Limited {
    fn is_within_limits(&self) -> bool;
}

impl Limited for usize {
    fn is_within_limits(&self) -> bool {
        *self <= LARGEST
    }
}

impl Limited for f64 {
    fn is_within_limits(&self) -> bool {
        self.is_finite()
    }
}

fn side(word: &str) -> Option<usize> {
    word.parse().ok().filter(|side| (1..=LARGEST).contains(side))
}

fn quoted(word: &str) -> String {
    match word.char_indices().nth(32) {
        _ if word.is_empty() => "the end of the layer".to_string(),
        Some((end, _)) => format!("'{}…'", word[..end].escape_debug()),
        None => format!("'{}'", word.escape_debug()),
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conv { kernel: (rows, columns), geometry: Conv2dGeometry { stride, padding } } => {
                write!(f, "conv {rows}")?;
                if rows != columns {
                    write!(f, "x{columns}")?;
                }
                if *padding != 0 {
                    write!(f, " pad {padding}")?;
                }
                if *stride != 1 {
                    write!(f, " stride {stride}")?;
                }
                Ok(())
            }
            Self::Linear => f.write_str("linear"),
            Self::BatchNorm { eps } if *eps == EPS => f.write_str("batch_norm"),
            Self::BatchNorm { eps } => write!(f, "batch_norm eps {eps:e}"),
            Self::MaxPool { window, stride } | Self::AvgPool { window, stride } => {
                let kind = if matches!(self, Self::MaxPool { .. }) { "max" } else { "avg" };
                write!(f, "{kind}_pool {window}")?;
                if stride != window {
                    write!(f, " stride {stride}")?;
                }
                Ok(())
            }
            Self::GlobalAvgPool => f.write_str("global_avg_pool"),
            Self::Flatten => f.write_str("flatten"),
            Self::Dropout { rate } => write!(f, "dropout {rate}"),
            Self::Act(activation) => write!(f, "{activation}"),
        }
    }
}

impl fmt::Display for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, layer) in self.0.iter().enumerate() {
            write!(f, "{}{layer}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn layers_are_read_as_they_are_written() {
        for text in [
            "linear",
            "conv 5 pad 2, relu, max_pool 2, conv 3x5 pad 1 stride 2, batch_norm, leaky_relu:0.5, linear",
            "conv 3, batch_norm eps 1e-3, avg_pool 3 stride 2, global_avg_pool, flatten, dropout 0.25, linear",
        ] {
            let layers: Layers = text.parse().unwrap();
            assert_eq!(layers.to_string(), text);
        }
        let plain: Layers = "max_pool 2,linear".parse().unwrap();
        let spaced: Layers = "  max_pool  2   stride 2 , linear ".parse().unwrap();
        assert_eq!(plain, spaced);
    }

    #[test]
    fn an_error_names_the_column_and_what_was_expected_there() {
        for (text, says) in [
            ("", "column 1: expected conv, linear"),
            ("linear,", "column 8: expected conv, linear"),
            ("linear, , relu", "column 9: expected conv, linear"),
            ("linear, rleu", "column 9: unknown activation 'rleu': did you mean relu?"),
            ("linear, celu:x", "column 9: "),
            ("é, linear", "column 1: expected conv, linear"),
            ("conv", "column 5: expected the size of a kernel, such as 5 or 3x5, found the end of the layer"),
            ("conv 0", "column 6: expected the size of a kernel"),
            ("conv 5 pad", "column 11: expected pad of at least 0, found the end of the layer"),
            ("conv 5 pad 1 pad 1", "column 14: expected 'pad' once"),
            ("conv 5 stride 0", "column 15: expected stride of at least 1, found '0'"),
            ("max_pool 2 pad 1", "column 12: expected stride or a comma, found 'pad'"),
            ("relu 5", "column 6: expected a comma, found '5'"),
            ("linear relu", "column 8: expected a comma, found 'relu'"),
            ("linear, dropout 1", "column 17: expected a rate"),
            ("linear, log_softmax", "column 9: expected no 'log_softmax': leave it out"),
            ("batch_norm eps nan", "column 16: expected eps of at least 0"),
        ] {
            let error = text.parse::<Layers>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("layers: {says}")), "{text:?}: {error}");
        }
    }
}
