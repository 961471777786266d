use taper_report::Consumer;

use crate::{Architecture, Layer, SampleShape};

impl Architecture {
    /// The layer that multiplies the values of each site, a linear layer or a convolution.
    ///
    /// There is at most dropout or flattening between the two. A site whose values are pooled or normalised first is left out,
    /// because its share of zeros is not that of the layer's inputs.
    ///
    /// ```
    /// use candle_core::Device;
    /// use taper_nn::{Architecture, Mlp, MlpConfig, Params};
    ///
    /// let (params, config) = (Params::new(1, &Device::Cpu), MlpConfig::default());
    /// Mlp::new(&config, params.builder())?;
    /// let network = Architecture::new(&config.layers(), params.shapes(), (1, 28, 28))?;
    /// let first = &network.consumers()[0];
    /// assert_eq!((first.site.as_str(), first.layer.as_str()), ("fc1", "fc2"));
    /// assert_eq!(first.multiplications, 512 * 256);
    /// # Ok::<(), candle_core::Error>(())
    /// ```
    pub fn consumers(&self) -> Vec<Consumer> {
        let mut consumers = Vec::new();
        // The site whose values the next layer reads.
        let mut site = None;
        let layers = self.layers().0.iter().zip(self.site_names());
        for ((layer, name), &[before, after]) in layers.zip(self.shapes().array_windows()) {
            match layer {
                Layer::Act(_) => site = Some(name),
                Layer::Flatten | Layer::Dropout { .. } => {}
                _ => {
                    let of = site.take().zip(multiplications(layer, before, after));
                    consumers.extend(of.map(|(site, multiplications)| Consumer {
                        site,
                        layer: name,
                        multiplications,
                    }));
                }
            }
        }
        consumers
    }
}

/// The number of multiplications per sample of a linear layer or a convolution; `None` for other layers.
fn multiplications(layer: &Layer, before: SampleShape, after: SampleShape) -> Option<u64> {
    match (layer, before, after) {
        (Layer::Conv { kernel, geometry }, SampleShape::Maps(c, h, w), SampleShape::Maps(o, ..)) => {
            Some(geometry.multiplications((h, w), *kernel).saturating_mul((c * o) as u64))
        }
        (Layer::Linear, ..) => Some((before.values() * after.values()) as u64),
        _ => None,
    }
}
