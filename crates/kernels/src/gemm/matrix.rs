/// A matrix in memory: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `width` values, one after the other.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        Self { data, row: width, column: 1 }
    }

    /// The same values with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }

    /// Whether `data` has all elements of this many rows and columns.
    pub fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let index = |rows, columns| last(rows, self.row)?.checked_add(last(columns, self.column)?);
        rows == 0 || columns == 0 || index(rows, columns).is_some_and(|last| last < self.data.len())
    }
}
