import { spawn } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { App, cliMain, Rig, root, until } from '../harness.js';
import { Recording } from './terminal.js';

/**
 * Records a job of 5,000 texts while its worker and its gateway are killed, and compares the answers with those of a run without
 * faults. Run by scripts/pictures.mjs.
 */
const TEXTS = 5_000;
const MAX_BYTES = 150_000;

const rig = await Rig.start({ quiet: true });
let start: App | undefined;
const recording = new Recording('A job of 5,000 texts goes on while its worker and its gateway are killed');
try {
  const texts = readFileSync(join(root, 'bench/sentences.txt'), 'utf8').trim().split('\n');
  // Numbered, so that no two are equal.
  const lines = Array.from({ length: TEXTS }, (_, i) => `${i} ${texts[i % texts.length]}`);
  writeFileSync(join(rig.folder, 'reviews.txt'), `${lines.join('\n')}\n`);
  // As npm start does, it restarts what dies.
  const server = new App(process.execPath, [join(root, 'scripts/start.mjs')], {
    ...rig.env,
    REDIS_URL: '',
    MODEL: 'minilm-l6-sst2',
    LOG_LEVEL: 'info',
    SLUICE_DEV_KEY: 'a-key-for-the-recording',
  });
  start = server;
  await until('it is ready', () => server.output.includes('Sluice is ready'), 60_000);

  /** Runs `sluice` in a terminal; calls a function with what it prints. */
  const sluice = (args: string, onOutput: (text: string) => void): Promise<number | null> => {
    const command = `stty cols 96; exec ${process.execPath} ${cliMain} ${args}`;
    const child = spawn('script', ['-qfec', command, '/dev/null'], {
      cwd: rig.folder,
      env: { PATH: process.env.PATH, HOME: process.env.HOME, TERM: 'xterm', DATA_DIR: rig.folder },
    });
    child.stdout.setEncoding('utf8').on('data', onOutput);
    return new Promise((resolve) => child.once('close', resolve));
  };

  await sluice('batch reviews.txt -o expected.csv', () => {});
  const kill = (part: string) => {
    const pid = Number(
      new RegExp(`"pid":(\\d+)[^\\n]*"name":"${part}"`).exec(
        server.output.slice(server.output.lastIndexOf(`"name":"${part}"`) - 200),
      )?.[1],
    );
    process.kill(pid, 'SIGKILL');
    return pid;
  };
  recording.comment('expected.csv has the answers of a run without faults');
  recording.command('sluice batch reviews.txt -o answers.csv --new &');
  const killed = new Set<string>();
  const ended = await sluice('batch reviews.txt -o answers.csv --new', (text) => {
    // The progress bar moves the cursor to the first column.
    recording.output(stripVTControlCharacters(text.replaceAll('\u001b[1G', '\r')));
    const percent = Number(/(\d+) %/.exec(text)?.[1] ?? 0);
    for (const [part, at] of [
      ['worker', 30],
      ['gateway', 60],
    ] as const) {
      if (percent < at || killed.has(part)) continue;
      killed.add(part);
      recording.command(`kill -9 ${kill(part)}   # the ${part}`);
    }
  });
  if (ended !== 0 || killed.size !== 2) throw new Error(`The job ended with ${ended} after ${[...killed]}`);
  const [expected, answers] = ['expected.csv', 'answers.csv'].map((file) =>
    readFileSync(join(rig.folder, file), 'utf8'),
  );
  recording.command('diff expected.csv answers.csv && echo no difference');
  if (expected !== answers) throw new Error('The answers differ');
  recording.output('no difference\n');
} finally {
  await start?.stop();
  await rig.close();
}
const file = join(root, 'docs/images/recording.svg');
writeFileSync(file, recording.svg());
const { size } = statSync(file);
if (size > MAX_BYTES) throw new Error(`The recording has ${size} bytes`);
process.exit(0);
