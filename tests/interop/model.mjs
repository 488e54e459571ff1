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
  group_params: 'bytes',
  params_type: 'string',
  codebook: 'bytes',
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
  if (tensor.params_type != null) return dequantizeSmall(tensor, rows, cols, codeAt, groupOf)
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

function groupFinder({ group_size, packing, scales, params_type }, rows, cols) {
  if (scales.length === 1 && params_type == null) return () => 0
  if (packing !== 'lsb') return row => Math.floor(row / Number(group_size))
  const groupCols = Number(group_size ?? cols)
  const groupsPerRow = Math.ceil(cols / groupCols)
  return (row, col) => row * groupsPerRow + Math.floor(col / groupCols)
}

/** The same from small parameters: docs/FORMAT.md, "Small parameters". */
function dequantizeSmall(tensor, rows, cols, codeAt, groupOf) {
  const params = smallParams(tensor, rows, cols)
  const levels = tensor.codebook == null ? null : Int8Array.from(tensor.codebook)
  const out = new Float32Array(rows * cols)
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const { scale, zeroPoint } = params[groupOf(row, col)], code = codeAt(row, col)
      const steps = levels ? levels[code] : Math.fround(code - zeroPoint)
      out[row * cols + col] = Math.fround(steps * scale)
    }
  }
  return out
}

/** [{scale, zeroPoint}] of all groups. */
function smallParams(tensor, rows, cols) {
  const { group_params: bytes, params_type: type, codebook, bit_width: bits } = tensor
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const perRow = Math.ceil(cols / Number(tensor.group_size ?? cols))
  const groups = rows * perRow
  const width = type === 'float16' ? 2 : 1
  const full = type === 'float16' ? 4 * rows + 4 * groups : 8 * rows + 2 * groups
  const symmetric = codebook == null && bytes.length !== full
  const one = codebook != null || symmetric // array behind the factors
  const factors = type === 'uint8' && !one ? 2 : 1
  const scalesAt = 4 * rows * factors, secondsAt = scalesAt + width * groups
  if (bytes.length !== secondsAt + (one ? 0 : width * groups)) {
    throw new Error(`${tensor.layer_name}: group_params of ${bytes.length} bytes`)
  }
  return Array.from({ length: groups }, (_, g) => {
    const factorAt = 4 * factors * Math.floor(g / perRow)
    const F = view.getFloat32(factorAt, true)
    const s = type === 'float16' ? float16(view.getUint16(scalesAt + 2 * g, true))
      : codebook != null ? view.getInt8(scalesAt + g) : view.getUint8(scalesAt + g)
    const scale = Math.fround(F * s)
    if (one) return { scale, zeroPoint: 2 ** (Number(bits) - 1) }
    if (type === 'float16') {
      return { scale, zeroPoint: float16(view.getUint16(secondsAt + 2 * g, true)) }
    }
    const M = view.getFloat32(factorAt + 4, true)
    const minimum = Math.fround(M * view.getInt8(secondsAt + g))
    return { scale, zeroPoint: scale > 0 ? Math.fround((0 - minimum) / scale) : 0 }
  })
}

function float16(half) {
  const exponent = half >> 10 & 31, fraction = half & 1023
  const magnitude = exponent === 0 ? fraction * 2 ** -24
    : (1024 + fraction) * 2 ** (exponent - 25)
  return half & 0x8000 ? -magnitude : magnitude
}
