/** The number that an option's text stands for; throws an error with a readable message for anything else. */
export function wholeNumber(option: string, value: string, least: number): number {
  const number = Number(value);
  if (value.trim() === '' || !Number.isSafeInteger(number) || number < least)
    throw new Error(`${option}: expected a whole number from ${least} on, got ${value}`);
  return number;
}

/** The names of a list with commas, each one of `known`, in the order of `known`. */
export function chosenNames<T extends string>(
  option: string,
  value: string | undefined,
  known: readonly T[],
): T[] {
  if (value === undefined) return [...known];
  const names = value.split(',');
  const stranger = names.find((name) => !known.includes(name as T));
  if (stranger !== undefined)
    throw new Error(`${option}: expected some of ${known.join(',')}; got ${stranger}`);
  return known.filter((name) => names.includes(name));
}
