/** What the commands' options are made of: numbers that are none, or too small, end them at once. */
import { InvalidArgumentError } from 'commander';

export function number(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!(value >= min) || text.trim() === '') throw new InvalidArgumentError(`a number, at least ${min}`);
    return value;
  };
}

/** Separated by commas. */
export function numbers(min: number): (text: string) => number[] {
  return (text) => text.split(',').map(number(min));
}
