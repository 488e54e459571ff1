// The model file as docs/FORMAT.md describes it, read without arrowquant.h.

/** Column types, as readers.mjs names them. */
export const columnTypes = {
  layer_name: 'string',
  shape: { list: 'int' },
  dtype: 'string',
  data: 'bytes',
  num_params: 'int',
  quant_type: 'string',
  scales: { list: 'f32' },
  zero_points: { list: 'f32' },
  quant_axis: 'int',
  group_size: 'int',
  bit_width: 'int',
  packing: 'string',
  cosine: 'f64',
  sqnr_db: 'f64',
  max_abs_error: 'f64',
  chunk_index: 'int',
  chunk_count: 'int',
  is_diffusion_model: 'bool',
  modality: 'string',
  time_aware_quant_json: 'string',
  spatial_quant_json: 'string',
  activation_stats_json: 'string'
}

/** Turns {column: [values]} into one object for each row. */
export function rowsOf(columns) {
  const names = Object.keys(columns)
  return columns[names[0]].map((_, row) =>
    Object.fromEntries(names.map(name => [name, columns[name][row]])))
}

/** A tensor is a matrix: its first dimension by the rest; 1-D is one row. */
export function matrixOf(shape) {
  const dims = Array.from(shape, Number)
  const rows = dims.length > 1 ? dims[0] : 1
  const cols = dims.slice(dims.length > 1 ? 1 : 0).reduce((a, b) => a * b, 1)
  return { rows, cols }
}

/**
 * The float32 values of a quantized row of a model file.
 * With "lsb" packing a code takes bit_width bits, least significant first, every matrix row
 * starts on a byte, and a group is group_size elements of a row. Without packing a code takes
 * a byte, and a group is group_size matrix rows.
 */
export function dequantize(tensor) {
  const { rows, cols } = matrixOf(tensor.shape)
  const codeAt = codeReader(tensor, cols)
  const groupOf = groupFinder(tensor, rows, cols)
  const out = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const group = groupOf(row, col)
      const difference = Math.fround(codeAt(row, col) - tensor.zero_points[group])
      out[row * cols + col] = Math.fround(difference * tensor.scales[group])
    }
  }
  return out
}

function codeReader({ data, bit_width: bits, packing }, cols) {
  if (packing !== 'lsb') return (row, col) => data[row * cols + col]
  const rowBytes = Math.ceil(cols * bits / 8)
  const mask = (1 << bits) - 1
  return (row, col) => data[row * rowBytes + (col * bits >> 3)] >> (col * bits & 7) & mask
}

function groupFinder({ group_size, packing, scales }, rows, cols) {
  if (scales.length === 1) return () => 0
  if (packing !== 'lsb') return row => Math.floor(row / Number(group_size))
  const groupCols = Number(group_size ?? cols)
  const groupsPerRow = Math.ceil(cols / groupCols)
  return (row, col) => row * groupsPerRow + Math.floor(col / groupCols)
}
