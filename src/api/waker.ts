/** For one loop that rests until there is something to do. A wake while it works is not lost. */
export class Waker {
  #resolve: (() => void) | undefined;
  #isWoken = false;

  /** Also called while an entry is being applied: only takes a note. */
  wake(): void {
    this.#isWoken = true;
    this.#resolve?.();
  }

  /** Resolves in a later turn than that of the wake: perhaps an entry is being applied. */
  async woken(): Promise<void> {
    if (!this.#isWoken) {
      await new Promise<void>((resolve) => {
        this.#resolve = resolve;
      });
      this.#resolve = undefined;
    }
    this.#isWoken = false;
    await nextTurn();
  }
}

export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
