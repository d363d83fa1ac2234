import { binding } from '../binding';
import { type Device, deviceIndex } from '../device';
import { handleOf } from '../handles';
import { PackedWeight } from './packedWeight';

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
    const handle = await binding.packedToDevice(handleOf('base', packed)!, index);
    return PackedWeight.of(handle, index);
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
    const handle = binding.packedToDeviceSync(handleOf('base', packed)!, index);
    return PackedWeight.of(handle, index);
  } finally {
    packed.dispose();
  }
}
