/**
 * ONNX models as protobuf bytes, as much of the format as a graph of float32 nodes needs.
 * Field numbers are those of onnx.proto3.
 */

const VARINT = 0;
const BYTES = 2;
const FLOAT = 1; // TensorProto.DataType
const ATTRIBUTE_INT = 2;
const ATTRIBUTE_STRING = 3;
const IR_VERSION = 10;
const OPSET = 21;

export interface Value {
  name: string;
  shape: readonly number[];
}

export interface Initializer extends Value {
  data: Float32Array;
}

export interface Node {
  op: string;
  domain: string;
  /** An empty name leaves an optional input out. */
  inputs: readonly string[];
  outputs: readonly string[];
  attributes: Record<string, string | number>;
}

export interface Graph {
  nodes: readonly Node[];
  initializers: readonly Initializer[];
  inputs: readonly Value[];
  outputs: readonly Value[];
  /** Version of ONNX's own operators, where a later one is needed. */
  opset?: number;
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 128; rest = Math.floor(rest / 128)) bytes.push((rest % 128) + 128);
  bytes.push(rest);
  return Buffer.from(bytes);
}

function integer(field: number, value: number): Buffer {
  return Buffer.concat([varint(field * 8 + VARINT), varint(value)]);
}

function bytes(field: number, value: string | Uint8Array): Buffer {
  const content = Buffer.from(value as Uint8Array);
  return Buffer.concat([varint(field * 8 + BYTES), varint(content.length), content]);
}

function message(field: number, ...parts: Buffer[]): Buffer {
  return bytes(field, Buffer.concat(parts));
}

function attribute(name: string, value: string | number): Buffer {
  const content =
    typeof value === 'string'
      ? [bytes(4, value), integer(20, ATTRIBUTE_STRING)]
      : [integer(3, value), integer(20, ATTRIBUTE_INT)];
  return message(5, bytes(1, name), ...content);
}

function node({ op, domain, inputs, outputs, attributes }: Node): Buffer {
  return message(
    1,
    ...inputs.map((name) => bytes(1, name)),
    ...outputs.map((name) => bytes(2, name)),
    bytes(4, op),
    ...Object.entries(attributes).map(([name, value]) => attribute(name, value)),
    bytes(7, domain),
  );
}

function initializer({ name, shape, data }: Initializer): Buffer {
  return message(
    5,
    ...shape.map((extent) => integer(1, extent)),
    integer(2, FLOAT),
    bytes(8, name),
    bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
  );
}

function value(field: number, { name, shape }: Value): Buffer {
  const extents = shape.map((extent) => message(1, integer(1, extent)));
  const tensorType = message(1, integer(1, FLOAT), message(2, ...extents));
  return message(field, bytes(1, name), message(2, tensorType));
}

function opset(domain: string, version: number): Buffer {
  return message(8, bytes(1, domain), integer(2, version));
}

/** The bytes of a model; `domains` are operator sets beside ONNX's own, each in version 1. */
export function onnxModel(graph: Graph, domains: readonly string[] = []): Buffer {
  return Buffer.concat([
    integer(1, IR_VERSION),
    opset('', graph.opset ?? OPSET),
    ...domains.map((domain) => opset(domain, 1)),
    message(
      7,
      ...graph.nodes.map(node),
      bytes(2, 'graph'),
      ...graph.initializers.map(initializer),
      ...graph.inputs.map((x) => value(11, x)),
      ...graph.outputs.map((x) => value(12, x)),
    ),
  ]);
}
