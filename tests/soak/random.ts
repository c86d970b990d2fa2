import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** Random decisions that are the same for the same seed. */
export class Random {
  #generator;

  constructor(seed: number) {
    this.#generator = xoroshiro128plus(seed);
  }

  /** A whole number from `least` to `most`. */
  int(least: number, most: number): number {
    return uniformInt(this.#generator, least, most);
  }

  /** Whether something with this probability happens. */
  chance(probability: number): boolean {
    return this.int(1, 1_000_000) <= probability * 1_000_000;
  }

  pick<T>(choices: readonly T[]): T {
    const choice = choices[this.int(0, choices.length - 1)];
    if (choice === undefined) throw new RangeError('There is nothing to choose from');
    return choice;
  }

  /** Another generator, so that what one client does never depends on the timing of the others. */
  fork(): Random {
    return new Random(this.int(0, 0x7fffffff));
  }
}
