/** A photo that can't be used; `code` names a sentence in strings.js, `values` fill its gaps. */
export class Refused extends Error {
  code: string;
  values: Record<string, number>;
}

export interface Class {
  name: string;
  /** The label's number. */
  number: number;
  /** 0…1. */
  probability: number;
}

export interface Answer {
  /** The most probable class, its number and its probability, 0…1. */
  name: string;
  number: number;
  probability: number;
  /** The second class where the first is less than twice as probable. */
  second: Class | null;
  /** `busy`: the background is not plain; `unlike`: little like any training image. */
  warning: { code: "busy" | "unlike"; values: Record<string, number> } | null;
  /** All classes, in the order of their numbers. */
  classes: Class[];
  /** What the network saw: grey values, row by row. */
  picture: Uint8Array;
}

/**
 * Name what is on a photo. The first call loads the network (about 16 MB).
 *
 * @param file PNG, JPEG, WebP, GIF or BMP
 * @param language of the names; default: the first that the model has
 * @throws {Refused} the photo can't be used
 * @throws {Error} a file of this folder can't be loaded
 */
export function classify(file: Blob, language?: string): Promise<Answer>;
