// What must hold for every model file, whoever wrote it.
import { readFileSync } from 'node:fs'
import { aq, aqJson, crc32, load, readSafetensors, same } from './lib.mjs'
import { dequantize, rowsOf } from './model.mjs'
import { canonical, hexOfBytes, readers } from './readers.mjs'

const safetensorsTypes = {
  float32: 'F32', float16: 'F16', bfloat16: 'BF16', float64: 'F64', bool: 'BOOL',
  int8: 'I8', uint8: 'U8', int16: 'I16', uint16: 'U16',
  int32: 'I32', uint32: 'U32', int64: 'I64', uint64: 'U64',
  float8_e4m3fn: 'F8_E4M3', float8_e5m2: 'F8_E5M2'
}

const hyparquet = readers.find(reader => reader.name === 'hyparquet')

/** The tensors of a model file, as hyparquet reads them. */
export const readTensors = async path => rowsOf(await hyparquet.read(path))

/** What `aq dequantize` must make of a tensor: [safetensors dtype, shape, bytes in hex]. */
function dequantized(tensor) {
  const values = tensor.bit_width ? dequantize(tensor) : tensor.data
  const dtype = tensor.bit_width ? 'F32' : safetensorsTypes[tensor.dtype]
  return [dtype, Array.from(tensor.shape, Number), hexOfBytes(values)]
}

/** `aq dequantize MODEL OUT` gives these tensors, bit for bit, and no others. */
export function expectDequantized(model, out, tensors) {
  aq(['dequantize', model, out])
  const actual = readSafetensors(out)
  same([...actual.keys()].sort(), tensors.map(tensor => tensor.layer_name).sort(), 'names')
  for (const tensor of tensors) {
    const { dtype, shape, data } = actual.get(tensor.layer_name)
    same([dtype, shape, hexOfBytes(data)], dequantized(tensor), tensor.layer_name)
  }
}

/** `aq inspect --json` says of each tensor what a row of the file says. */
export function expectInspected(model, tensors) {
  const { tensors: inspected } = aqJson(['inspect', model])
  same(inspected.length, tensors.length, 'number of tensors')
  const byName = new Map(inspected.map(tensor => [tensor.name, tensor]))
  for (const tensor of tensors) {
    same(summary(byName.get(tensor.layer_name)), summaryOfRow(tensor), tensor.layer_name)
  }
}

function summary(tensor) {
  const { shape, dtype, num_params, quant_type, params_type, bit_width, data_bytes } = tensor
  const { cosine, sqnr_db, max_abs_error } = tensor
  return {
    shape, dtype, num_params, quant_type, params_type, bit_width, data_bytes,
    measures: [cosine, sqnr_db, max_abs_error].map(value => value === null ? null : Number(value))
  }
}

function summaryOfRow(row) {
  return {
    shape: Array.from(row.shape, Number),
    dtype: row.dtype,
    num_params: Number(row.num_params),
    quant_type: row.quant_type,
    params_type: row.params_type ?? (row.bit_width ? 'float32' : null),
    bit_width: Number(row.bit_width),
    data_bytes: row.data.length,
    measures: [row.cosine, row.sqnr_db, row.max_abs_error].map(value => value ?? null)
  }
}

/** Each page's CRC-32, in the page header and as aq gives it, is that of the stored bytes. */
export async function expectChecksums(path) {
  const { deserializeTCompactProtocol } = await load('hyparquet/src/thrift.js')
  const file = readFileSync(path)
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const pages = pagesOf(path)
  for (const page of pages) {
    const where = `page at ${page.header_offset}`
    const reader = { view, offset: page.header_offset }
    const { field_3: storedBytes, field_4: storedCrc } = deserializeTCompactProtocol(reader)
    const bytes = file.subarray(page.data_offset, page.data_offset + page.compressed_bytes)
    same([reader.offset, storedBytes], [page.data_offset, page.compressed_bytes], where)
    same([storedCrc >>> 0, page.crc], [crc32(bytes), crc32(bytes)], `CRC of ${where}`)
  }
}

const known = new Map()

/** All pages of a file, with the row group and column that each belongs to; every column chunk
 * of a file with rows has some. */
export function pagesOf(path) {
  if (!known.has(path)) known.set(path, findPages(aqJson(['meta', path, '--pages'])))
  return known.get(path)
}

function findPages({ num_rows, row_groups }) {
  return row_groups.flatMap((group, row_group) => group.columns.flatMap(column => {
    if (num_rows && !column.pages.length) throw new Error(`no pages of ${column.path}`)
    return column.pages.map(page => ({ row_group, column: column.path, ...page }))
  }))
}

/** All four readers give the same values; `types` names the type of each column. */
export async function expectAgreement(path, types) {
  let first
  for (const reader of readers) {
    const columns = await reader.read(path)
    const values = Object.fromEntries(Object.entries(columns).map(([name, column]) =>
      [name, column.map(value => canonical(types[name], value))]))
    first ??= values
    same(values, first, reader.name)
  }
}
