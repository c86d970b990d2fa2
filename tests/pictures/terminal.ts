/** Text of one line of a terminal from a time on, in seconds. */
interface Change {
  line: number;
  atSeconds: number;
  text: string;
  kind: 'command' | 'comment' | 'output';
}

const COLUMNS = 96;
const LINE_HEIGHT = 20;
const CHARACTER_WIDTH = 8.43;
const MARGIN = 16;
/** Changes of a line that follow each other faster than this are left out, in seconds. */
const LEAST_SECONDS = 0.4;
/** The last picture stays this long, in seconds. */
const END_SECONDS = 5;

const escaped = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

/** Records what a terminal shows as an animated SVG, without scripts, in the time in which it happened. */
export class Recording {
  #startMs: number | undefined;
  #changes: Change[] = [];
  #lines = 0;
  /** The line that output goes to, and what it has so far. */
  #open: { line: number; text: string } | undefined;
  /** Whether the next output replaces the line. */
  #atStart = false;

  /** @param title what the recording shows */
  constructor(readonly title: string) {}

  comment(text: string): void {
    this.#add(`# ${text}`, 'comment');
  }

  command(text: string): void {
    this.#add(`$ ${text}`, 'command');
  }

  /** Text that a program prints: a carriage return goes back to the start of the line. */
  output(text: string): void {
    for (const piece of text.replaceAll('\r\n', '\n').split(/([\r\n])/)) {
      if (piece === '\n') this.#open = undefined;
      else if (piece === '\r') this.#atStart = true;
      else if (piece !== '') {
        this.#open ??= { line: this.#lines++, text: '' };
        this.#open.text = this.#atStart ? piece : this.#open.text + piece;
        this.#atStart = false;
        this.#change(this.#open.line, this.#open.text.slice(0, COLUMNS), 'output');
      }
    }
  }

  #add(text: string, kind: Change['kind']): void {
    this.#change(this.#lines++, text, kind);
  }

  #change(line: number, text: string, kind: Change['kind']): void {
    this.#startMs ??= performance.now();
    const atSeconds = (performance.now() - this.#startMs) / 1000;
    const last = this.#changes.findLast((change) => change.line === line);
    // Replaces a text that was shown too briefly to read.
    if (last && atSeconds - last.atSeconds < LEAST_SECONDS) last.text = text;
    else if (last?.text !== text) this.#changes.push({ line, atSeconds, text, kind });
  }

  svg(): string {
    const endSeconds = Math.max(...this.#changes.map(({ atSeconds }) => atSeconds)) + END_SECONDS;
    const width = Math.round(COLUMNS * CHARACTER_WIDTH + 2 * MARGIN);
    const height = this.#lines * LINE_HEIGHT + 2 * MARGIN;
    const percent = (seconds: number) => `${((100 * seconds) / endSeconds).toFixed(2)}%`;
    const rules: string[] = [];
    const texts = this.#changes.map((change, i) => {
      const next = this.#changes.slice(i + 1).find(({ line }) => line === change.line);
      const from = percent(change.atSeconds);
      // Shown from its time to that of the next text of the line, or to the end.
      rules.push(
        `@keyframes k${i}{0%{visibility:hidden}${from}{visibility:visible}${next ? `${percent(next.atSeconds)}{visibility:hidden}` : ''}}`,
        // With prefers-reduced-motion, only the final texts are shown.
        `@media(prefers-reduced-motion:no-preference){#l${i}{animation:k${i} ${endSeconds.toFixed(1)}s steps(1) infinite}}`,
        ...(next ? [`@media(prefers-reduced-motion:reduce){#l${i}{visibility:hidden}}`] : []),
      );
      const y = MARGIN + (change.line + 0.75) * LINE_HEIGHT;
      return `<text id="l${i}" class="${change.kind}" x="${MARGIN}" y="${y}">${escaped(change.text)}</text>`;
    });
    return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">
<title>${escaped(this.title)}</title>
<style>
text{font:14px ui-monospace,Menlo,Consolas,monospace;white-space:pre;fill:#c9d6e2}
.command{fill:#fff;font-weight:600}
.comment{fill:#8fa3b5}
${rules.join('\n')}
</style>
<rect width="100%" height="100%" rx="8" fill="#12181f"/>
${texts.join('\n')}
</svg>
`;
  }
}
