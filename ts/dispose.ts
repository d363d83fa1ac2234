/** What `using` calls, also where the runtime does not know it. @internal */
export const disposeSymbol: symbol = Symbol.dispose ?? Symbol.for('Symbol.dispose');
