// The smallest false-alarm rate of a calibration in words.
import { whole } from "./format.js";

const DIGITS = 4;

/** Rounds a positive number up to four significant digits: a rate that is rounded down would be refused again. */
function roundedUp(value) {
  const near = Number(value.toPrecision(DIGITS));
  return near >= value ? near : Number((near + 10 ** (Math.floor(Math.log10(value)) - DIGITS + 1)).toPrecision(DIGITS));
}

/** Returns the number of calibration images whose smallest p-value, 1 / (n + 1), is known. */
export const imagesOf = (smallest) => Math.round(1 / smallest) - 1;

/** Returns the smallest rate in per cent with the number of images that it follows from: "0.02 % (1/(5,000 + 1), rounded up)". */
export function smallestRate(smallest) {
  return `${roundedUp(100 * smallest)} % (1/(${whole(imagesOf(smallest))} + 1), rounded up)`;
}
