use candle_core::{Device, Result, Tensor};

use super::rule::Rule;

/// One step of `rule` in candle operations: the new parameter; `slots` are replaced.
pub fn step(
    rule: &Rule,
    parameter: &Tensor,
    gradient: &Tensor,
    slots: &mut [Tensor],
    rate: f64,
    step: u64,
) -> Result<Tensor> {
    let t = step.min(i32::MAX as u64) as i32;
    corrected(rule, parameter, gradient, slots, rate, |correct, xs| xs / correct(t))
}

/// As [`step`], with a step count for each row and, unless there are none, each column.
pub fn step_parts(
    rule: &Rule,
    parameter: &Tensor,
    gradient: &Tensor,
    slots: &mut [Tensor],
    rate: f64,
    (rows, columns): (&[u64], &[u64]),
) -> Result<Tensor> {
    let columns = if columns.is_empty() { &[u64::MAX][..] } else { columns };
    let mut shape = vec![1; parameter.rank()];
    shape.iter_mut().zip([rows.len(), columns.len()]).for_each(|(own, n)| *own = n);
    corrected(rule, parameter, gradient, slots, rate, |correct, xs| {
        let each = rows.iter().flat_map(|row| columns.iter().map(move |column| *row.min(column)));
        let each: Vec<f64> = each.map(|step| correct(step.min(i32::MAX as u64) as i32)).collect();
        let each = Tensor::from_vec(each, &shape[..], &Device::Cpu)?.to_dtype(xs.dtype())?;
        xs.broadcast_div(&each.to_device(xs.device())?)
    })
}

/// A step whose values `divide` divides by what Adam's correction is after so many steps.
fn corrected(
    rule: &Rule,
    parameter: &Tensor,
    gradient: &Tensor,
    slots: &mut [Tensor],
    rate: f64,
    divide: impl Fn(&dyn Fn(i32) -> f64, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (p, g) = (parameter.detach(), gradient.detach());
    let mean = |old: &Tensor, new: &Tensor, decay: f64| (old * decay)? + (new * (1.0 - decay))?;
    match (*rule, slots) {
        (Rule::Sgd { weight_decay, .. }, []) => p.sub(&((g + (&p * weight_decay)?)? * rate)?),
        (Rule::Sgd { momentum, nesterov, weight_decay }, [buffer]) => {
            let g = (g + (&p * weight_decay)?)?;
            *buffer = ((&*buffer * momentum)? + &g)?;
            let direction = if nesterov { (g + (&*buffer * momentum)?)? } else { buffer.clone() };
            p - (direction * rate)?
        }
        (Rule::Adam { beta1, beta2, eps, weight_decay, decoupled }, [m, v]) => {
            let g = if decoupled { g } else { (g + (&p * weight_decay)?)? };
            let p = if decoupled { (&p * (1.0 - rate * weight_decay))? } else { p };
            *m = mean(m, &g, beta1)?;
            *v = mean(v, &g.sqr()?, beta2)?;
            let root = (divide(&|t| (1.0 - beta2.powi(t)).sqrt(), &v.sqrt()?)? + eps)?;
            p - divide(&|t| (1.0 - beta1.powi(t)) / rate, &(&*m / root)?)?
        }
        (Rule::RmsProp { alpha, eps }, [square]) => {
            *square = mean(square, &g.sqr()?, alpha)?;
            p - ((g / (square.sqrt()? + eps)?)? * rate)?
        }
        (Rule::Adadelta { rho, eps }, [square, moved]) => {
            *square = mean(square, &g.sqr()?, rho)?;
            let delta = ((((&*moved + eps)?.sqrt()? / (&*square + eps)?.sqrt()?)?) * g)?;
            *moved = mean(moved, &delta.sqr()?, rho)?;
            p - (delta * rate)?
        }
        (rule, slots) => {
            candle_core::bail!("expected {} slots, found {}", rule.slots().len(), slots.len())
        }
    }
}
