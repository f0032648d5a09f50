import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";
import "./dom.mjs";
const { Lexer, pdfText } = await import("../../web/core/pdf-text.js");
const { glyphText, readTable } = await import("../../web/core/pdf-fonts.js");

/** A PDF file of numbered objects; one that is [dictionary, content] becomes a stream. */
function pdf(objects, trailer = "") {
  const body = Object.entries(objects).map(([number, object]) => {
    const [dictionary, content] = Array.isArray(object) ? object : [object];
    const stream = content === undefined ? "" : `\nstream\n${content}\nendstream`;
    const length = content === undefined ? "" : ` /Length ${content.length}`;
    return `${number} 0 obj\n${dictionary.replace(/>>$/, `${length}>>`)}${stream}\nendobj\n`;
  }).join("");
  return Uint8Array.from(Buffer.from(`%PDF-1.7\n${body}trailer\n<</Root 1 0 R${trailer}>>\n`, "latin1")).buffer;
}

const packed = (text) => Buffer.from(deflateSync(Buffer.from(text, "latin1"))).toString("latin1");
const FONT = "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding>>";
const show = (content, more = {}) => pdfText(pdf({
  1: "<</Type /Catalog /Pages 2 0 R>>", 2: "<</Type /Pages /Kids [3 0 R] /Resources <</Font <</F1 5 0 R>>>>>>",
  3: "<</Type /Page /Parent 2 0 R /Contents 4 0 R>>", 4: ["<<>>", content], 5: FONT, ...more,
}), 1e6);

test("texts become words and lines by where they stand", async () => {
  const table = [
    ["BT /F1 12 Tf 72 700 Td (Hello) Tj 0 -14 Td (world) Tj ET", "Hello\nworld"],
    ["BT /F1 12 Tf 72 700 Td [(AV) 80 (ATAR) -400 (two)] TJ ET", "AVATAR two"],
    ["BT /F1 12 Tf 14 TL (a) Tj (b) ' 1 0 (c) \" ET", "a\nb\nc"],
    ["BT /F1 12 Tf 1 0 0 1 72 700 Tm (one) Tj ET BT /F1 12 Tf 1 0 0 1 72 600 Tm (two) Tj ET", "one\n\ntwo"],
    ["BT /F1 12 Tf (left) Tj 200 0 Td (right) Tj ET", "left right"],
    ["q 1 0 0 1 0 50 cm BT /F1 12 Tf (up) Tj ET Q BT /F1 12 Tf (down) Tj ET", "up\n\ndown"],
    ["BT /F1 12 Tf (\\101\\(b\\)\\\\\\\nc) Tj <4142 4> Tj ET", "A(b)\\cAB@"],
    ["BI /W 1 /H 1 ID \xff(Tj) EI BT /F1 12 Tf (seen) Tj ET", "seen"],
  ];
  for (const [content, text] of table) assert.equal(await show(content), text);
});

test("streams are unpacked, and so are objects in streams, forms, and pages in their tree", async () => {
  const inside = "3 0 5 47 <</Type /Page /Contents [4 0 R 9 0 R]>>         " + FONT;
  const first = inside.indexOf("<<");
  const text = await pdfText(pdf({
    1: "<</Type /Catalog /Pages 2 0 R>>", 2: "<</Type /Pages /Kids [3 0 R 3 0 R 2 0 R]/Resources 6 0 R>>",
    4: ["<</Filter /FlateDecode>>", packed("BT /F1 10 Tf (packed) Tj ET /X Do")],
    6: "<</Font <</F1 5 0 R>> /XObject <</X 7 0 R>>>>",
    7: ["<</Subtype /Form /Matrix [1 0 0 1 0 -30] /Filter [/ASCIIHexDecode]>>", Buffer.from("BT /F1 10 Tf (form) Tj ET /X Do").toString("hex")],
    8: [`<</Type /ObjStm /N 2 /First ${first} /Filter /FlateDecode>>`, packed(inside.replace(" 47 ", ` ${inside.indexOf(FONT) - first} `))],
    9: ["<</Filter /FlateDecode>>", `${packed("BT /F1 10 Tf (never) Tj ET").slice(0, 9)}damaged`],
  }), 1e6);
  assert.match(text, /^packed\n\n(form\s*)+$/);
});

test("a font's own table tells its characters, of one byte or of two, and else its glyphs' names", async () => {
  const table = `begincmap 1 begincodespacerange <0000> <ffff> endcodespacerange 1 beginbfchar <0001> <00660069> endbfchar
    2 beginbfrange <0002> <0003> <0416> <0004> <0005> [<4e2d> <d83dde00>] endbfrange endcmap`;
  assert.deepEqual([...readTable(table).texts.values()], ["fi", "Ж", "З", "中", "😀"]);
  assert.equal(await show("BT /F1 9 Tf <000100020003000400050006> Tj ET", {
    5: "<</Type /Font /Subtype /Type0 /DescendantFonts [7 0 R] /ToUnicode 6 0 R>>", 6: ["<<>>", table],
    7: "<</Type /Font /DW 500 /W [1 [300 400] 3 5 900]>>",
  }), "fiЖЗ中😀");
  assert.equal(await show("BT /F1 9 Tf (abc) Tj ET", {
    5: "<</Type /Font /Subtype /Type1 /Encoding <</Differences [97 /eacute /uni20AC /fi]>>>>",
  }), "é€fi");
  for (const [name, text] of [["Scedilla", "Ş"], ["a.sc", "a"], ["u1F600", "😀"], ["germandbls", "ß"], ["g37", ""]]) {
    assert.equal(glyphText(name), text);
  }
});

test("a file without text, with a password, or that goes on for ever says so, and does not hang", async () => {
  await assert.rejects(show("0 0 10 10 re f"), /has no text/);
  await assert.rejects(pdfText(pdf({ 1: "<<>>" }, " /Encrypt 9 0 R"), 1e6), /encrypted/);
  await assert.rejects(pdfText(new TextEncoder().encode("no PDF at all").buffer, 1e6), /has no text/);
  await assert.rejects(show(`BT /F1 9 Tf (${"long ".repeat(300)}) Tj ET`).then((text) => pdfText(pdf({
    1: "<</Type /Page /Contents 4 0 R /Resources <</Font <</F1 5 0 R>>>>>>", 4: ["<<>>", `BT /F1 9 Tf (${text}) Tj ET`], 5: FONT,
  }), 1024)), /more text than 1 KB/);
  await assert.rejects(pdfText(pdf({ 1: "[".repeat(500) }), 1e6), /larger inside/);
  const bomb = deflateSync(Buffer.alloc(70 * 1024 * 1024, 32)).toString("latin1");
  await assert.rejects(show(bomb, { 4: ["<</Filter /FlateDecode>>", bomb] }), /larger inside/);
});

test("values of every kind are read as they are written", () => {
  const lexer = new Lexer("<</A#20b -.5/B[1 0 R (x(y)) <6>]%note\n/C true>> >> 12.5.1 +-3");
  const dictionary = lexer.next();
  assert.deepEqual([...dictionary.keys()], ["/A b", "/B", "/C"]);
  assert.deepEqual(dictionary.get("/B"), [{ ref: 1 }, { bytes: "x(y)" }, { bytes: "`" }]);
  assert.equal(dictionary.get("/A b"), -0.5);
  assert.deepEqual([lexer.next(), lexer.next()], [{ operator: ">" }, { operator: ">" }]);
  assert.deepEqual([lexer.next(), lexer.next(), lexer.next(), lexer.next()], [12.5, 0.1, -3, undefined]);
});
