//! L2 Init: the penalty and its gradient.

use taper_data::Batch;
use taper_hooks::Pass;
use taper_kernels::record;
use taper_nn::Model;
use taper_train::{Error, L2Init, Step, cross_entropy, train_epoch};

use crate::common::few;
use crate::{adam, edit, flat, net, var};

#[test]
fn l2_init_is_0_at_the_start_and_pulls_back_to_it() {
    let (params, net) = net(1);
    let l2 = L2Init::new(&params, 0.25).unwrap();
    assert_eq!(l2.penalty().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    edit(&params, "fc1.bias", |bias| bias[2] += 3.0);
    edit(&params, "fc3.weight", |weights| weights[5] -= 1.0);
    assert!((l2.penalty().unwrap().to_scalar::<f32>().unwrap() - 0.25 * 10.0).abs() < 1e-5);
    // Beside a loss on the tape, as in a training step.
    let batch = few().train.batches(96).next().unwrap().unwrap();
    let gradient = |with: bool| {
        let (loss, tape) = record(|| {
            let loss = cross_entropy(&net.forward(&mut Pass::eval(&mut ()), &batch.images)?, &batch.labels)?;
            if with { loss + l2.penalty().unwrap() } else { Ok(loss) }
        });
        let gradients = tape.backward(&loss.unwrap()).unwrap();
        flat(&gradients.get(&var(&params, "fc1.bias")).unwrap().values().unwrap())
    };
    for (unit, (with, without)) in gradient(true).iter().zip(gradient(false)).enumerate() {
        let want = if unit == 2 { 2.0 * 0.25 * 3.0 } else { 0.0 };
        assert!((with - without - want).abs() < 1e-5, "{unit}: {with} {without}");
    }
}

#[test]
fn a_step_whose_loss_is_penalised_trains_as_any_other() {
    let (params, net) = net(1);
    let l2 = L2Init::new(&params, 1e-3).unwrap();
    let step = |pass: &mut Pass<'_>, batch: &Batch| {
        let logits = net.forward(pass, &batch.images)?;
        pass.add_to_loss(&l2.penalty()?)?;
        Ok::<_, Error>(Step::new(cross_entropy(&logits, &batch.labels)?, batch.labels.dim(0)?))
    };
    let mut optimizer = adam(&params, 0.01);
    let report = train_epoch(&step, &mut optimizer, few().train.batches(32), &mut (), 1).unwrap();
    assert!(report.score.metric("added_loss") > Some(0.0));
}
