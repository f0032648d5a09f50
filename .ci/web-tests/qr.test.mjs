import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import "./dom.mjs";
const { qrCode } = await import("../../web/core/qr.js");

test("links become codes of the smallest size, which a reader has read before", () => {
  const table = [
    ["a", 21, "ad5d91aeb99cd989"], [`http://192.168.1.20:3000/#key=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG`, 37, "a3e8d7c3ec56caac"],
    ["y".repeat(150), 49, "c355a1e9306fe859"], ["n".repeat(213), 57, "368939823c8d9cd2"],
  ];
  for (const [text, size, print] of table) {
    const code = qrCode(text);
    assert.equal(code.length, size);
    assert.equal(createHash("sha256").update(JSON.stringify(code)).digest("hex").slice(0, 16), print, text);
  }
  assert.equal(qrCode("n".repeat(214)), null);
});

test("the address for a phone is the page's own, the machine's in its network, or none", async () => {
  globalThis.location ??= { href: "http://x/", origin: "http://x", hostname: "x", protocol: "http:", port: "" };
  const { sharedAddress } = await import("../../web/components/sign-in-code.js");
  const at = (hostname, port = "3000") => ({ origin: `http://${hostname}:${port}`, hostname, protocol: "http:", port });
  const table = [
    [{ host: "127.0.0.1", address: "192.168.1.5" }, at("box.local"), "http://box.local:3000/"],
    [{ host: "0.0.0.0", address: "192.168.1.5" }, at("localhost"), "http://192.168.1.5:3000/"],
    [{ host: "192.168.1.7", address: "192.168.1.5" }, at("127.0.0.1"), "http://192.168.1.7:3000/"],
    [{ host: "127.0.0.1", address: "192.168.1.5" }, at("localhost"), ""], [{ host: "0.0.0.0", address: null }, at("[::1]"), ""], [null, at("localhost"), ""],
  ];
  for (const [system, place, address] of table) assert.equal(sharedAddress(system, place), address);
});
