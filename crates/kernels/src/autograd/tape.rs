use std::cell::RefCell;

use candle_core::{
    CpuStorage, CustomOp1, Device, Layout, Result, Shape, Storage, StridedBlocks, Tensor, TensorId, Var,
};

use super::gradient::Gradient;
use super::gradients::{Form, Gradients, VarGradient};
use super::op::{self, Op};
use crate::values::{Values, is_fast};

thread_local! {
    /// The mode of operations on this thread, set by [`record`] and [`no_grad`] only. A thread-local, because candle's
    /// graph cannot be read from outside, and a model should not have to pass a tape through its layers.
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Graph) };
}

/// Where operations are recorded for the backward pass.
#[derive(Default)]
enum Mode {
    /// In candle's graph.
    #[default]
    Graph,
    Tape(Tape),
    Nowhere,
}

/// The operations of this crate that ran in a forward pass, in order, for the backward pass.
///
/// candle's own backward pass adds every gradient to a tensor of zeros, also the first and only one. A tape passes
/// gradients on as they are, in place and sparse where possible. Operations of candle may come between those of this
/// crate: their gradients are computed by candle's backward pass.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
}

struct Node {
    op: Box<dyn Op>,
    /// The inputs as given: gradients go to these.
    inputs: Vec<Tensor>,
    /// The same inputs, contiguous: the operation reads these.
    values: Vec<Tensor>,
    output: Tensor,
    /// The address of the values of `output`.
    address: usize,
}

/// Runs `forward` and records the operations of this crate in it, on this thread.
///
/// The returned tensors are leaves of candle's graph: use [`Tape::backward`], not candle's `backward`, which stops at
/// the first of them. Tapes nest, and the previous tape is restored, also after a panic.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use taper_kernels::{Activation, activate, linear, record};
///
/// let xs = Tensor::new(&[[1.0_f32, -2.0]], &Device::Cpu)?;
/// let weight = Var::new(&[[3.0_f32, 1.0], [1.0, 1.0]], &Device::Cpu)?;
/// let (loss, tape) = record(|| activate(&linear(&xs, &weight, None)?, Activation::Relu)?.sum_all());
/// let gradients = tape.backward(&loss?)?;
/// assert_eq!(gradients.get(&weight).unwrap().values()?.to_vec2::<f32>()?, [[1.0, -2.0], [0.0, 0.0]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn record<R>(forward: impl FnOnce() -> R) -> (R, Tape) {
    let outer = Replaced::by(Mode::Tape(Tape::default()));
    let result = forward();
    let tape = match MODE.take() {
        Mode::Tape(tape) => tape,
        _ => Tape::default(),
    };
    drop(outer);
    (result, tape)
}

/// Runs `forward` on this thread without keeping anything for a backward pass, like `torch.no_grad`. The returned
/// tensors have no graph, so memory does not grow with the depth of a network.
///
/// candle's own operations still keep a graph if one of their inputs is a variable.
///
/// ```
/// use candle_core::{Device, Var};
/// use taper_kernels::{linear, no_grad};
///
/// let weight = Var::new(&[[3.0_f32, 1.0]], &Device::Cpu)?;
/// let ys = no_grad(|| linear(&weight, &weight, None))?;
/// assert!(!ys.track_op());
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn no_grad<R>(forward: impl FnOnce() -> R) -> R {
    let _outer = Replaced::by(Mode::Nowhere);
    forward()
}

/// Runs `op` without a tape, and outside of [`no_grad`]: it is not part of the forward pass of this thread.
///
/// Needed around parallel loops too: a waiting thread may steal any other work, which must not be recorded.
pub fn off_the_record<R>(op: impl FnOnce() -> R) -> R {
    let _outer = Replaced::by(Mode::Graph);
    op()
}

/// Restores the previous mode on drop.
struct Replaced(Mode);

impl Replaced {
    fn by(mode: Mode) -> Self {
        Self(MODE.replace(mode))
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        MODE.set(std::mem::take(&mut self.0));
    }
}

/// Whether operations become part of candle's graph.
pub(crate) fn is_in_graph() -> bool {
    MODE.with_borrow(|mode| matches!(mode, Mode::Graph))
}

/// The result of candle's operations that replace one of this crate: without its graph within [`no_grad`].
pub(crate) fn by_candle(ys: Result<Tensor>) -> Result<Tensor> {
    match MODE.with_borrow(|mode| matches!(mode, Mode::Nowhere)) {
        true => ys.map(|ys| ys.detach()),
        false => ys,
    }
}

/// Runs an operation, and records it if there is a tape.
pub(crate) fn apply(op: Box<dyn Op>, inputs: &[&Tensor]) -> Result<Tensor> {
    let values: Vec<Tensor> = inputs.iter().map(|t| t.detach().contiguous()).collect::<Result<_>>()?;
    let read: Vec<Values<'_>> = values.iter().map(Values::of).collect::<Result<_>>()?;
    let slices: Vec<&[f32]> = read.iter().map(|values| &**values).collect();
    let ys = off_the_record(|| op.forward(&slices));
    drop(read);
    MODE.with_borrow_mut(|mode| match mode {
        Mode::Tape(tape) if inputs.iter().any(|t| t.track_op()) => {
            // A variable, so that candle's graph of later operations ends here.
            let output = Var::from_vec(ys, op.shape(), &Device::Cpu)?.into_inner();
            let address = Values::of(&output)?.as_ptr().addr();
            let inputs = inputs.iter().copied().cloned().collect();
            tape.nodes.push(Node { op, inputs, values, output: output.clone(), address });
            Ok(output)
        }
        _ => Tensor::from_vec(ys, op.shape(), &Device::Cpu),
    })
}

impl Tape {
    /// The gradients of `loss`, a scalar, with respect to every variable that it was computed from.
    ///
    /// # Errors
    /// When an operation of candle in between has no backward pass.
    pub fn backward(self, loss: &Tensor) -> Result<Gradients> {
        self.backward_except(loss, &[])
    }

    /// [`Tape::backward`] without the gradients of the variables `frozen` and of operations before them that reach no
    /// other variable: the backward pass stops where all parameters are frozen. Other gradients have the same bits.
    /// Gradients that candle's operations compute may be present anyway.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_except(self, loss: &Tensor, frozen: &[TensorId]) -> Result<Gradients> {
        self.backward_through(loss, frozen, &[]).map(|(gradients, _)| gradients)
    }

    /// [`Tape::backward_except`], and the gradients of `loss` with respect to `outputs`, with their shapes. Each is the
    /// output of an operation of this crate, or a view of one. `None` for other tensors, and for outputs without a
    /// gradient.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn backward_through(
        self,
        loss: &Tensor,
        frozen: &[TensorId],
        outputs: &[&Tensor],
    ) -> Result<(Gradients, Vec<Option<Tensor>>)> {
        // `backward` may run within another recording.
        off_the_record(|| self.run(loss, frozen, outputs))
    }

    fn run(
        self,
        loss: &Tensor,
        frozen: &[TensorId],
        outputs: &[&Tensor],
    ) -> Result<(Gradients, Vec<Option<Tensor>>)> {
        let Self { mut nodes } = self;
        let mut through = vec![None; outputs.len()];
        if nodes.is_empty() {
            return Ok((loss.backward()?.into(), through));
        }
        let mut wanted = wanted(&nodes, frozen)?;
        let producers: Vec<Option<usize>> =
            outputs.iter().map(|output| producer(&nodes, output)).collect::<Result<_>>()?;
        let mut walk = Walk::default();
        walk.pending.resize_with(nodes.len(), || None);
        walk.send(&nodes, loss, Gradient::Dense(vec![1.0; loss.elem_count()]))?;
        walk.pass_through_candle(&nodes)?;
        while let Some(node) = nodes.pop() {
            let wanted = wanted.pop().unwrap_or_default();
            let Some(gradient) = walk.pending.pop().flatten() else { continue };
            for (i, output) in outputs.iter().enumerate().filter(|(i, _)| producers[*i] == Some(nodes.len()))
            {
                through[i] = Some(Tensor::from_vec(gradient.to_dense(), output.shape(), output.device())?);
            }
            if !wanted.contains(&true) {
                continue;
            }
            let values: Vec<&Tensor> = node.values.iter().collect();
            let gradients = op::backward(&*node.op, &values, &wanted, &node.output, gradient)?;
            for ((input, gradient), wanted) in node.inputs.iter().zip(gradients).zip(wanted) {
                // An unwanted gradient may be returned.
                if let Some(gradient) = gradient.filter(|_| wanted) {
                    walk.send(&nodes, input, gradient)?;
                }
            }
            walk.pass_through_candle(&nodes)?;
        }
        Ok((walk.gradients, through))
    }
}

/// For every input of every node, whether its gradient is needed.
fn wanted(nodes: &[Node], frozen: &[TensorId]) -> Result<Vec<Vec<bool>>> {
    let mut all: Vec<Vec<bool>> = Vec::with_capacity(nodes.len());
    for (i, node) in nodes.iter().enumerate() {
        let is_wanted = |input: &Tensor| {
            if frozen.is_empty() || !input.track_op() {
                return Ok(input.track_op());
            }
            let before = &nodes[..i];
            let from = producer(before, input)?.map_or_else(|| viewed(before, input), |i| Ok(Some(i)))?;
            Ok(match from {
                Some(from) => all[from].contains(&true),
                None => !(input.is_variable() && frozen.contains(&input.id())),
            })
        };
        let own = node.inputs.iter().map(is_wanted).collect::<Result<_>>()?;
        all.push(own);
    }
    Ok(all)
}

/// The state of a backward pass.
#[derive(Default)]
struct Walk {
    /// For every remaining node, the gradient of its output.
    pending: Vec<Option<Gradient>>,
    /// Gradients of tensors that operations of candle computed from outputs and variables.
    foreign: Vec<(Tensor, Gradient)>,
    /// Gradients of variables: the result.
    gradients: Gradients,
}

fn add(sum: Option<Gradient>, gradient: Gradient) -> Gradient {
    match sum {
        Some(sum) => sum.plus(gradient),
        None => gradient,
    }
}

impl Walk {
    /// Adds the gradient of `tensor` to that of its node or variable.
    fn send(&mut self, nodes: &[Node], tensor: &Tensor, gradient: Gradient) -> Result<()> {
        if let Some(i) = producer(nodes, tensor)? {
            self.pending[i] = Some(add(self.pending[i].take(), gradient));
        } else if let Some(i) = viewed(nodes, tensor)? {
            let mut sum = match self.pending[i].take() {
                Some(sum) => sum.into_dense(),
                None => vec![0.0; nodes[i].output.elem_count()],
            };
            add_to_view(&mut sum, tensor, &gradient.into_dense());
            self.pending[i] = Some(Gradient::Dense(sum));
        } else if tensor.is_variable() {
            let gradient = match gradient {
                // Its inputs must not change until then: the output of an operation does not, a variable may.
                Gradient::Pending(pending)
                    if pending.reads().map_or(Ok(true), |xs| is_output(nodes, xs))? =>
                {
                    VarGradient(Form::Pending(pending))
                }
                other => Tensor::from_vec(other.into_dense(), tensor.shape(), tensor.device())?.into(),
            };
            self.gradients.add_to(tensor.id(), gradient)?;
        } else if tensor.track_op() {
            let known = self.foreign.iter().position(|(foreign, _)| foreign.id() == tensor.id());
            let before = known.map(|i| self.foreign.swap_remove(i).1);
            self.foreign.push((tensor.clone(), add(before, gradient)));
        }
        Ok(())
    }

    /// Runs candle's backward pass from those tensors that no remaining node uses, down to outputs and variables.
    fn pass_through_candle(&mut self, nodes: &[Node]) -> Result<()> {
        let is_used =
            |t: &Tensor| nodes.iter().flat_map(|node| &node.inputs).any(|input| input.id() == t.id());
        let (waiting, ready): (Vec<_>, Vec<_>) = self.foreign.drain(..).partition(|(t, _)| is_used(t));
        self.foreign = waiting;
        for (tensor, gradient) in ready {
            let gradient = Tensor::from_vec(gradient.into_dense(), tensor.shape(), tensor.device())?;
            let found = tensor.apply_op1(Seed(gradient.to_dtype(tensor.dtype())?))?.backward()?;
            for &id in found.get_ids() {
                let Some(gradient) = found.get_id(id) else { continue };
                match nodes.iter().position(|node| node.output.id() == id) {
                    Some(i) => {
                        let gradient = Gradient::Dense(Values::of(&gradient.contiguous()?)?.to_vec());
                        self.pending[i] = Some(add(self.pending[i].take(), gradient));
                    }
                    None => self.gradients.add_to(id, gradient.clone().into())?,
                }
            }
        }
        Ok(())
    }
}

/// The node with this output, or with an output that `tensor` is a reshaped view of.
///
/// A view is recognised by its address and its number of elements. That is enough: a node keeps its output alive, so no
/// other storage can have the address while the tape exists. Contiguous tensors of one storage with the same start and
/// length have the same elements in the same order, whatever their shapes, so they have the same gradient. A detached
/// view tracks no operations and is never looked up. Tensors without elements may share an address, but have no
/// gradients.
fn producer(nodes: &[Node], tensor: &Tensor) -> Result<Option<usize>> {
    if let Some(i) = nodes.iter().position(|node| node.output.id() == tensor.id()) {
        return Ok(Some(i));
    }
    let may_be_view =
        !tensor.is_variable() && tensor.track_op() && is_fast(&[tensor]) && tensor.is_contiguous();
    if nodes.is_empty() || !may_be_view {
        return Ok(None);
    }
    let address = Values::of(tensor)?.as_ptr().addr();
    let same = |node: &Node| node.address == address && node.output.elem_count() == tensor.elem_count();
    Ok(nodes.iter().position(same))
}

/// The node whose output `tensor` is any view of: a part, with exchanged axes, or repeated.
///
/// A view shares the output's storage, whose address is unique, and its layout gives the index of each element. candle
/// shares a storage only between views of one tensor.
fn viewed(nodes: &[Node], tensor: &Tensor) -> Result<Option<usize>> {
    if tensor.is_variable() || !tensor.track_op() || !is_fast(&[tensor]) || tensor.elem_count() == 0 {
        return Ok(None);
    }
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { return Ok(None) };
    let address = values.as_ptr().addr();
    Ok(nodes.iter().position(|node| node.address == address))
}

/// Adds the gradient of a view to that of the whole tensor.
fn add_to_view(whole: &mut [f32], view: &Tensor, gradient: &[f32]) {
    let mut add = |start: usize, gradient: &[f32]| {
        whole[start..][..gradient.len()].iter_mut().zip(gradient).for_each(|(sum, x)| *sum += x);
    };
    match view.strided_blocks() {
        StridedBlocks::SingleBlock { start_offset, len } => add(start_offset, &gradient[..len]),
        StridedBlocks::UniformBlocks { start_offset, block_len, src_stride, .. } => {
            let blocks = gradient.chunks_exact(block_len).enumerate();
            blocks.for_each(|(i, block)| add(start_offset + i * src_stride, block));
        }
        StridedBlocks::MultipleBlocks { block_start_index, block_len } => {
            let blocks = block_start_index.zip(gradient.chunks_exact(block_len));
            blocks.for_each(|(start, block)| add(start, block));
        }
    }
}

/// Whether `tensor` is the output of one of the nodes.
fn is_output(nodes: &[Node], tensor: &Tensor) -> Result<bool> {
    Ok(producer(nodes, tensor)?.is_some())
}

/// An operation that returns a stored gradient: it starts candle's backward pass with a gradient other than 1.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
