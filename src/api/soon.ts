/** What is there in this turn most of the time, and then shall cost no promise. */
export type Soon<T> = T | Promise<T>;

export function whenThere<T, R>(value: Soon<T>, use: (value: T) => Soon<R>): Soon<R> {
  return value instanceof Promise ? value.then(use) : use(value);
}
