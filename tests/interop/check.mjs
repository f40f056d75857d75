// Reads what opexport wrote with readers that nobody here wrote, and compares totals.
// Usage: node check.mjs READERS_DIR EXPORT_DIR TOTAL FUNCTION CHROMIUM
// READERS_DIR holds node_modules; EXPORT_DIR the files of run.py; FUNCTION is a name that has to be found in each;
// CHROMIUM is a browser. Prints a line for each format and reader, and ends with 1 when one failed.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { pathToFileURL } from 'node:url';

const [readers, dir, totalText, wanted, chromiumPath] = process.argv.slice(2);
const total = Number(totalText);
const require = createRequire(join(readers, 'package.json'));
const load = async name => import(pathToFileURL(require.resolve(name)));
// What was looked at in each format with each reader.
const checks = new Map();
// Every function that was sampled, hot or not: readers that drop frames keep their counts right.
const written = JSON.parse(readFileSync(join(dir, 'json')));
const functions = [...new Set(written.samples.map(sample => written.frames[sample.stack.at(-1)].function))];

function check(format, reader, what, condition, detail) {
  const key = `${format.padEnd(12)} ${reader.padEnd(20)}`;
  if (!checks.has(key)) checks.set(key, []);
  checks.get(key).push({ what, failure: condition ? null : String(detail) });
}

function report() {
  let failed = false;
  for (const [key, looked] of checks) {
    const failures = looked.filter(it => it.failure !== null);
    failed ||= failures.length > 0;
    const text = failures.length === 0
      ? looked.map(it => it.what).join(', ')
      : failures.map(it => `${it.what}: ${it.failure}`).join('; ');
    console.log(`${failures.length === 0 ? 'ok  ' : 'FAIL'} ${key} ${text}`);
  }
  return failed;
}

// A reader that throws has failed; the others are asked all the same.
async function attempt(format, reader, read) {
  try {
    await read();
  } catch (error) {
    check(format, reader, 'reads it', false, `${error}`.split('\n')[0]);
  }
}

async function pprof() {
  const { Profile } = await load('pprof-format');
  const profile = Profile.decode(gunzipSync(readFileSync(join(dir, 'pprof'))));
  const sum = profile.sample.reduce(
    (sum, sample) => sum + sample.value.reduce((a, value) => a + Number(value), 0), 0);
  check('pprof', 'pprof-format', 'total', sum === total, `${sum}, not ${total}`);
  const strings = profile.stringTable.strings;
  const names = profile.function.map(f => strings[Number(f.name)]);
  check('pprof', 'pprof-format', 'function', names.includes(wanted), names.join(' '));
  const locations = new Set(profile.location.map(l => Number(l.id)));
  check('pprof', 'pprof-format', 'locations', profile.sample.every(
    s => s.locationId.length > 0 && s.locationId.every(id => locations.has(Number(id)))), 'a sample names no location');
}

function firefox() {
  // Its daemons are found below HOME; those of the user are none of our business.
  const home = mkdtempSync(join(tmpdir(), 'profiler-cli-'));
  const cli = join(readers, 'node_modules/@firefox-devtools/profiler-cli/dist/profiler-cli.js');
  const run = (...args) => execFileSync(process.execPath, [cli, ...args], {
    encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, HOME: home } });
  try {
    for (let attempt = 1; ; attempt += 1) {
      try {
        run('load', join(dir, 'firefox'));
        break;
      } catch (error) {
        // It gives its daemon half a second, which is not enough on a busy machine.
        if (attempt === 20) throw error;
      }
    }
    const threads = JSON.parse(run('thread', 'list', '--json', '--limit', '0'));
    const list = threads.threads ?? threads;
    let sum = 0;
    let found = false;
    for (const thread of list) {
      const handle = thread.handle ?? thread.threadHandle;
      const text = run('thread', 'functions', '--thread', handle, '--json', '--include-idle', '--limit', '100000');
      found ||= text.includes(JSON.stringify(wanted).slice(1, -1));
      sum += JSON.parse(text).functions.reduce((a, f) => a + f.selfSamples, 0);
    }
    check('firefox', 'Firefox Profiler', 'total', sum === total, `${sum}, not ${total}`);
    check('firefox', 'Firefox Profiler', 'function', found, 'not in any thread');
  } finally {
    run('stop', '--all');
    rmSync(home, { recursive: true });
  }
}

async function browser() {
  const chromium = (await load('@sparticuz/chromium')).default;
  const puppeteer = (await load('puppeteer-core')).default;
  const browser = await puppeteer.launch({
    args: [...chromium.args, '--allow-file-access-from-files'],
    executablePath: chromiumPath,
    headless: 'shell',
  });
  try {
    await attempt('flamegraph', 'Chromium', async () => svg(await browser.newPage()));
    for (const format of ['speedscope', 'folded', 'perf-script', 'pprof']) {
      await attempt(format, 'speedscope', async () => speedscope(await browser.newPage(), format));
    }
  } finally {
    await browser.close();
  }
}

async function svg(page) {
  await page.goto(pathToFileURL(join(dir, 'flamegraph.svg')).href);
  const seen = await page.evaluate(() => ({
    root: document.documentElement.nodeName,
    errors: document.getElementsByTagName('parsererror').length,
    titles: [...document.querySelectorAll('g > title')].map(title => title.textContent),
    outside: [...document.querySelectorAll('g > rect')].filter(rect => {
      const box = rect.getBBox();
      return box.x < 9.9 || box.x + box.width > 1190.1;
    }).length,
  }));
  check('flamegraph', 'Chromium', 'SVG', seen.root === 'svg' && seen.errors === 0, JSON.stringify(seen));
  check('flamegraph', 'Chromium', 'total', seen.titles[0] === `all (${total} samples, 100.00 %)`, seen.titles[0]);
  check('flamegraph', 'Chromium', 'function', seen.titles.some(title => title.includes(wanted)), 'no such box');
  check('flamegraph', 'Chromium', 'boxes', seen.outside === 0, `${seen.outside} outside the drawing`);
}

// Imports a file and has speedscope export it again; what it exports is what it understood.
async function speedscope(page, format) {
  await page.evaluateOnNewDocument(() => {
    const original = URL.createObjectURL.bind(URL);
    URL.createObjectURL = blob => {
      window.exported = blob;
      return original(blob);
    };
  });
  const index = join(readers, 'node_modules/speedscope/dist/release/index.html');
  await page.goto(pathToFileURL(index).href);
  const input = await page.waitForSelector('input[type=file]');
  const before = await page.title();
  await input.uploadFile(join(dir, format));
  await page.waitForFunction(title => document.title !== title, { timeout: 60000 }, before);
  await page.keyboard.down('Control');
  await page.keyboard.press('s');
  await page.keyboard.up('Control');
  await page.waitForFunction(() => window.exported !== undefined, { timeout: 60000 });
  const file = JSON.parse(await page.evaluate(() => window.exported.text()));
  const sum = file.profiles.reduce((sum, profile) => sum + weight(profile), 0);
  check(format, 'speedscope', 'total', Math.round(sum) === total, `${sum}, not ${total}`);
  const names = file.shared.frames.map(frame => frame.name);
  check(format, 'speedscope', 'function', names.some(name => name.includes(wanted)), names.join(' '));
  // Folded stacks cannot hold every character, and say the image as well.
  if (format !== 'folded') {
    const missing = functions.filter(name => !names.includes(name));
    check(format, 'speedscope', 'all functions', missing.length === 0, missing.join('; '));
  }
}

// A record of perf-script lasts until the next of its thread, 1 µs; the last one lasts for nothing.
function weight(profile) {
  if (profile.unit === 'seconds') {
    return Math.round((profile.endValue - profile.startValue) * 1e6) + 1;
  }
  return profile.type === 'sampled'
    ? profile.weights.reduce((a, b) => a + b, 0)
    : profile.endValue - profile.startValue;
}

await attempt('pprof', 'pprof-format', pprof);
await attempt('firefox', 'Firefox Profiler', firefox);
await attempt('flamegraph', 'Chromium', browser);
process.exitCode = report() ? 1 : 0;
