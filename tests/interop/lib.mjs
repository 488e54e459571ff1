// What every test here needs: places, packages, reporting, comparing, the aq command.
import { spawn, spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

export const root = fileURLToPath(new URL('../..', import.meta.url))
const buildDir = join(root, 'build', 'interop')
// run.sh gives each of its runs a directory, so that several can go on at a time.
const runDir = process.env.INTEROP_RUN ?? buildDir
const aqPath = resolve(process.env.AQ ?? join(root, 'build', 'aq'))

/** Files that make_models wrote: NAME.parquet and, with what is in it, NAME.json. */
export const dataDir = join(runDir, 'data')
export const makeModels = join(buildDir, 'make_models')
/** What several projects on a machine share, absent elsewhere: models, and the files of
 * the repository parquet-testing. */
export const sharedModels = join(root, '..', 'shared', 'models')
export const parquetTesting = join(root, '..', 'shared', 'parquet-testing')

/** Imports a package from build/interop, where run.sh installs them. */
export function load(name) {
  const require = createRequire(join(buildDir, 'package.json'))
  return import(pathToFileURL(require.resolve(name)))
}

/** An empty directory for the files of one test. */
export function scratchDir(name) {
  const dir = join(runDir, 'scratch', name)
  rmSync(dir, { recursive: true, force: true })
  mkdirSync(dir, { recursive: true })
  return dir
}

// run.sh counts these lines by their first word.
export async function test(name, body) {
  try {
    await body()
    console.log(`ok   ${name}`)
  } catch (error) {
    console.log(`FAIL ${name}: ${error.message.split('\n')[0]}`)
    process.exitCode = 1
  }
}

export function skip(name, reason) {
  console.log(`skip ${name}: ${reason}`)
}

/** Runs aq; returns its standard output, or throws when the exit status is not `status`. */
export const aq = (args, status = 0) => run(args, status).stdout

/** Runs aq, which must fail; returns the line on its standard error. */
export const aqError = args => run(args, 2).stderr.trim()

/** Starts aq, for an output that is too large for memory. */
export const startAq = args => spawn(aqPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })

function run(args, status) {
  const done = spawnSync(aqPath, args, { encoding: 'utf8', maxBuffer: 1 << 28 })
  if (done.error) throw done.error
  if (done.status !== status) {
    const ending = done.signal ?? `status ${done.status}, not ${status}`
    throw new Error(`aq ${args.join(' ')}: ${ending}: ${done.stderr.trim()}`)
  }
  return done
}

export const aqJson = args => JSON.parse(aq([...args, '--json']))

export const readJson = path => JSON.parse(readFileSync(path, 'utf8'))

/** Throws with the place of the first difference between two trees of primitives. */
export function same(actual, expected, where = 'value') {
  if (Array.isArray(expected) && Array.isArray(actual)) {
    same(actual.length, expected.length, `${where}.length`)
    expected.forEach((item, i) => same(actual[i], item, `${where}[${i}]`))
  } else if (isPlain(expected) && isPlain(actual)) {
    same(Object.keys(actual), Object.keys(expected), `keys of ${where}`)
    for (const key of Object.keys(expected)) same(actual[key], expected[key], `${where}.${key}`)
  } else if (!Object.is(actual, expected)) {
    throw new Error(`${where} is ${excerpt(actual)}, expected ${excerpt(expected)}`)
  }
}

const isPlain = value => typeof value === 'object' && value !== null && !Array.isArray(value)

function excerpt(value) {
  const text = typeof value === 'bigint' ? `${value}n` : JSON.stringify(value) ?? 'undefined'
  return text.length > 120 ? `${text.slice(0, 110)}... (${text.length} characters)` : text
}

/** The tensors of a safetensors file: name -> {dtype, shape, data}. */
export function readSafetensors(path) {
  const file = readFileSync(path)
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes))
  delete header.__metadata__
  const body = file.subarray(8 + headerBytes)
  return new Map(Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) =>
    [name, { dtype, shape, data: body.subarray(from, to) }]))
}

/** Writes [{name, dtype, shape, data}] as a safetensors file. */
export function writeSafetensors(path, tensors) {
  let end = 0
  const header = Object.fromEntries(tensors.map(({ name, dtype, shape, data }) =>
    [name, { dtype, shape, data_offsets: [end, end += data.byteLength] }]))
  const text = Buffer.from(JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(path, Buffer.concat([size, text, ...tensors.map(tensor => tensor.data)]))
}

const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let c = byte
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0xedb88320 : c >>> 1
  return c
})

/** gzip's CRC-32. node:zlib has one from version 20.15 on only. */
export function crc32(bytes) {
  let state = 0xffffffff
  for (const byte of bytes) state = crcTable[(state ^ byte) & 255] ^ (state >>> 8)
  return (state ^ 0xffffffff) >>> 0
}
