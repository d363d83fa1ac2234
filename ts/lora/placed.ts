import { type Device, deviceIndex } from '../device';
import type { PackedWeight } from './packedWeight';

/** Packs on the CPU and moves the result to where it shall be. @internal */
export async function placed(
  operation: string,
  device: Device | undefined,
  pack: () => Promise<PackedWeight>,
): Promise<PackedWeight> {
  const index = deviceIndex(operation, device);
  const packed = await pack();
  if (index < 0) return packed;
  try {
    return await packed.to(index);
  } finally {
    packed.dispose();
  }
}

/** {@link placed}, waiting for it. @internal */
export function placedSync(
  operation: string,
  device: Device | undefined,
  pack: () => PackedWeight,
): PackedWeight {
  const index = deviceIndex(operation, device);
  const packed = pack();
  if (index < 0) return packed;
  try {
    return packed.toSync(index);
  } finally {
    packed.dispose();
  }
}
