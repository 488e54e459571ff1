// The files of apache/parquet-testing: `aq cat` gives the values that other readers give, and
// refuses what is damaged or encrypted.
import { existsSync, readdirSync } from 'node:fs'
import { freemem } from 'node:os'
import { join } from 'node:path'
import { aq, aqError, parquetTesting, same, skip, startAq, test } from './lib.mjs'
import { rowReaders, typesOf } from './rows.mjs'

const raw = 'aq cat --raw'
const others = ['hyparquet', 'DuckDB']
const large = 'data/large_string_map.brotli.parquet' // for neither of them

/** Files that a reader cannot judge: the reader, and why. */
const excused = {
  'data/byte_stream_split_extended.gzip.parquet': {
    DuckDB: 'knows BYTE_STREAM_SPLIT of floats only'
  },
  'data/datapage_v2_empty_datapage.snappy.parquet': {
    hyparquet: 'takes the absence of bytes for a damaged page'
  },
  'data/hadoop_lz4_compressed.parquet': { DuckDB: 'has no codec LZ4' },
  'data/hadoop_lz4_compressed_larger.parquet': { DuckDB: 'has no codec LZ4' },
  'data/non_hadoop_lz4_compressed.parquet': { DuckDB: 'has no codec LZ4' },
  'data/int96_from_spark.parquet': {
    hyparquet: 'takes the parts of INT96 for unsigned numbers',
    DuckDB: 'overflows in the year 290000'
  },
  'data/map_no_value.parquet': {
    hyparquet: 'takes a map without values for a group',
    DuckDB: 'wants maps to have values'
  },
  'data/nation.dict-malformed.parquet': { hyparquet: 'refuses the dictionary page' },
  'data/repeated_primitive_no_list.parquet': { hyparquet: 'gives null for an empty list' }
}

/** What the repository itself says of files; for all that no other reader judges. */
const expectations = {
  'data/byte_stream_split_extended.gzip.parquet': expectEqualPairs,
  'data/int96_from_spark.parquet': expectSparkTimestamps,
  'data/map_no_value.parquet': expectMapsWithoutValues,
  'data/hadoop_lz4_compressed.parquet': path => expectSameText(path, 'lz4_raw_compressed'),
  'data/non_hadoop_lz4_compressed.parquet': path => expectSameText(path, 'lz4_raw_compressed'),
  'data/hadoop_lz4_compressed_larger.parquet': path => expectSameText(path, 'lz4_raw_compressed_larger'),
  [large]: expectGibibytes
}

/** Files that aq must refuse, and what its message says. */
const refusals = {
  'data/datapage_v1-corrupt-checksum.parquet': /CRC-32/,
  'data/rle-dict-uncompressed-corrupt-checksum.parquet': /CRC-32/,
  // "A schema Thrift value has been corrupted."
  'bad_data/PARQUET-1481.parquet': /schema: field "Handle" has no valid physical type/,
  // "The number of values in the dictionary page header is negative"; it is also cut off.
  'bad_data/ARROW-RS-GH-6229-DICTHEADER.parquet': /column chunk lies outside the file/,
  'bad_data/ARROW-RS-GH-6229-LEVELS.parquet': /repetition levels are cut off/,
  'bad_data/ARROW-GH-41321.parquet': /definition levels are cut off/,
  // "Not all columns have the same size"; its footer is damaged too.
  'bad_data/ARROW-GH-41317.parquet': /Thrift metadata: list of another type/,
  'bad_data/ARROW-GH-45185.parquet': /first repetition level is 1, not 0/,
  // "A required column contains null values": they take no bytes.
  'bad_data/ARROW-GH-47662.parquet': /does not hold the 100 values that it claims/
}

async function expectSameRows(path, reasons) {
  const types = await typesOf(path)
  const expected = await rowReaders[raw](path, types)
  for (const reader of ['aq cat', ...others.filter(other => !reasons[other])]) {
    same(await rowReaders[reader](path, types), expected, reader)
  }
  for (const reader of Object.keys(reasons)) await expectStillUnable(reader, path, types, expected)
}

/** An excuse that is no longer needed must go. */
async function expectStillUnable(reader, path, types, expected) {
  try {
    same(await rowReaders[reader](path, types), expected)
  } catch {
    return
  }
  throw new Error(`${reader} reads this file now: strike it from the table`)
}

const rowsOf = (path, options = []) =>
  aq(['cat', path, ...options]).trimEnd().split('\n').map(line => JSON.parse(line))

/** Each column is there twice, in two encodings. */
function expectEqualPairs(path) {
  for (const row of rowsOf(path, ['--raw'])) {
    for (const name of Object.keys(row).filter(name => name.endsWith('_plain'))) {
      same(row[name.replace('_plain', '_byte_stream_split')], row[name], name)
    }
  }
}

/** Microseconds of int96_from_spark.md; the last ones wrapped around when they were written. */
async function expectSparkTimestamps(path) {
  const rows = await rowReaders[raw](path, await typesOf(path))
  same(rows.map(([nanos]) => nanos && BigInt.asIntN(64, BigInt(nanos) / 1000n)),
    [1704141296123456n, 1704070800000000n, 253402225200000000n, 1735599600000000n, null,
      9089380393200000000n], 'microseconds')
}

function expectMapsWithoutValues(path) {
  same(rowsOf(path), [[1, 2, 3], [4, 5, 6], [7, 8, 9]].map(keys => ({
    my_map: keys.map(key => ({ key, value: null })),
    my_map_no_v: keys.map(key => ({ key })),
    my_list: keys
  })), 'rows')
}

function expectSameText(path, name) {
  same(aq(['cat', path]), aq(['cat', join(parquetTesting, 'data', `${name}.parquet`)]), 'text')
}

/** Two rows with a key of 2^30 letters: more than a JavaScript string holds. */
async function expectGibibytes(path) {
  const child = startAq(['cat', path])
  let letters = 0
  let rest = ''
  const ended = new Promise(resolve => child.on('close', resolve))
  for await (const chunk of child.stdout) {
    if (chunk.every(byte => byte === 0x61)) {
      letters += chunk.length
    } else {
      rest += chunk
    }
  }
  same(await ended, 0, 'exit status')
  const row = '{"arr": [{"key": "", "value": 1}]}\n'
  same(rest.replaceAll(/a{2,}/g, run => (letters += run.length) && ''), row + row, 'text but for the letters')
  same(letters, 2 ** 31, 'letters')
}

function listFiles(directory) {
  return readdirSync(join(parquetTesting, directory))
    .filter(name => /\.(parquet|encrypted)$/.test(name)).map(name => `${directory}/${name}`)
}

async function testRefusal(file) {
  await test(`aq cat refuses ${file}`, () => {
    const message = aqError(['cat', join(parquetTesting, file)])
    if (!refusals[file].test(message)) throw new Error(message)
  })
}

async function testFile(file) {
  const path = join(parquetTesting, file)
  const reasons = excused[file] ?? {}
  if (file === large) {
    if (freemem() < 6 * 2 ** 30) return skip(`aq cat reads ${file}`, 'less than 6 GiB of free memory')
  } else {
    const unable = Object.entries(reasons).map(([reader, why]) => `; ${reader} ${why}`).join('')
    await test(`aq cat reads ${file}${unable}`, () => expectSameRows(path, reasons))
  }
  const expectation = expectations[file]
  if (expectation) await test(`aq cat gives what is known of ${file}`, () => expectation(path))
}

if (existsSync(parquetTesting)) {
  for (const file of ['data', 'data/aes256', 'bad_data'].flatMap(listFiles)) {
    if (file.endsWith('.encrypted')) refusals[file] = /encrypted/
    await (refusals[file] ? testRefusal(file) : testFile(file))
  }
} else {
  skip('parquet-testing', 'there is no ../shared/parquet-testing')
}
