// The bytes that a call has to move at least: every input read once, every result written once.

export interface Traffic {
  read: number;
  written: number;
  /** How much memory that is: what is updated in place is read and written, and counts once. */
  footprint: number;
}

interface Sized {
  data?: { byteLength: number };
  /** Of a tensor on a device. */
  bytes?: number;
}

function sizeOf(tensors: object): number {
  return Object.values(tensors).reduce<number>((sum, tensor) => {
    const { data, bytes } = (tensor ?? {}) as Sized;
    return sum + (data?.byteLength ?? bytes ?? 0);
  }, 0);
}

/** Of tensors by their names; `updated` holds inputs that are results besides, or an engine-owned state's values. */
export function trafficOf(inputs: object, results: object, updated: object = {}): Traffic {
  const [read, written, both] = [sizeOf(inputs), sizeOf(results), sizeOf(updated)];
  return { read: read + both, written: written + both, footprint: read + written + both };
}
