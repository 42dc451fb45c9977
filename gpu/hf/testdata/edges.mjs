// Writes edges.json: small tokenizers and what the Rust library makes of strings.
//   npm i @anush008/tokenizers@0.6.0 && node edges.mjs > edges.json
import { createRequire } from 'module';
const { Tokenizer } = createRequire(process.cwd() + '/')('@anush008/tokenizers');

// GPT-2's alphabet of bytes, and some merges.
const alphabet = [];
for (let b = 0, next = 256; b < 256; b++)
  alphabet.push(String.fromCodePoint((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++));
const bytes = () => {
  const vocab = {}, merges = [];
  for (const c of alphabet) vocab[c] = Object.keys(vocab).length;
  for (const [l, r] of [['w', 'o'], ['r', 'd'], ['wo', 'rd'], ['Ġ', 'wo'], ['Ġwo', 'rd'], ['1', '2'], ['12', '3'], ['a', 'b'], ['A', 'B'], ["'", 's'], ['Ã', '©'], ['Ġ', 'Ġ']]) {
    merges.push(l + ' ' + r);
    vocab[l + r] = Object.keys(vocab).length;
  }
  return { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, vocab, merges };
};
const pieces = () => {
  const vocab = { '<unk>': 0 }, merges = [];
  for (let b = 0; b < 256; b++) vocab['<0x' + b.toString(16).toUpperCase().padStart(2, '0') + '>'] = b + 1;
  for (const c of '▁abcdefgwordsé12') vocab[c] = vocab[c] ?? Object.keys(vocab).length;
  for (const [l, r] of [['w', 'o'], ['r', 'd'], ['wo', 'rd'], ['▁', 'word'], ['▁', '▁'], ['a', 'b']]) {
    merges.push(l + ' ' + r);
    vocab[l + r] = Object.keys(vocab).length;
  }
  return { type: 'BPE', dropout: null, unk_token: '<unk>', continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true, byte_fallback: true, vocab, merges };
};
// Without some of the characters, and of the bytes.
const partial = fuse_unk => {
  const m = pieces();
  for (const c of ['<0x09>', '<0xE4>', '<0xF0>', '<0x21>', 'B', '!']) delete m.vocab[c];
  return { ...m, fuse_unk };
};
const make = (model, normalizer, pre_tokenizer, decoder, added) => {
  let id = Math.max(...Object.values(model.vocab)) + 1;
  const added_tokens = added.map(t => ({ id: model.vocab[t.content] ?? id++, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...t }));
  return { version: '1.0', truncation: null, padding: null, added_tokens, normalizer, pre_tokenizer, post_processor: null, decoder, model };
};
const byteLevel = regex => ({ type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: regex });
const split = (Regex, behavior) => ({ type: 'Split', pattern: { Regex }, behavior, invert: behavior === 'Removed' });
const sequence = (...pretokenizers) => ({ type: 'Sequence', pretokenizers });
const metaspace = (prepend_scheme, splits) => ({ type: 'Metaspace', replacement: '▁', prepend_scheme, split: splits });
const o200k = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const tekken = o200k.replaceAll("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", '').replace('{1,3}', '');
const qwen35 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const deepseek = '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+';
const edges = [{ content: '<L>', lstrip: true }, { content: '<R>', rstrip: true }, { content: '<B>', lstrip: true, rstrip: true }, { content: 'word', single_word: true },
  { content: '<N>', normalized: true, special: false }, { content: 'n l', normalized: true, lstrip: true, special: false }, { content: 'wordy', single_word: true, rstrip: true }, { content: ' sp ' },
  { content: 'é', normalized: true, special: false, single_word: true }];
const fallback = { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }] };

const cases = {
  'edges, bytes': make(bytes(), { type: 'NFC' }, byteLevel(true), byteLevel(true), edges),
  'edges, prepend': make(pieces(), { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }] }, null, fallback, edges),
  'edges, metaspace': make(pieces(), null, metaspace('first', true), { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true }, edges),
  'metaspace always': make(pieces(), null, metaspace('always', false), { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: false }, [{ content: '<s>' }]),
  'metaspace never': make(pieces(), null, metaspace('never', true), { type: 'Metaspace', replacement: '▁', prepend_scheme: 'never', split: true }, [{ content: '<s>' }]),
  'each digit': make(bytes(), null, sequence({ type: 'Digits', individual_digits: true }, byteLevel(true)), byteLevel(true), []),
  'digits': make(bytes(), null, sequence({ type: 'Digits', individual_digits: false }, byteLevel(true)), byteLevel(true), []),
  'o200k': make(bytes(), null, sequence(split(o200k, 'Removed'), byteLevel(false)), byteLevel(true), []),
  'tekken': make(bytes(), null, sequence(split(tekken, 'Isolated'), byteLevel(false)), byteLevel(true), []),
  'qwen 3.5': make(bytes(), { type: 'NFC' }, sequence(split(qwen35, 'Isolated'), byteLevel(false)), byteLevel(true), []),
  'deepseek v3': make(bytes(), null, sequence(split('\\p{N}{1,3}', 'Isolated'), split('[一-龥぀-ゟ゠-ヿ]+', 'Isolated'), split(deepseek, 'Isolated'), byteLevel(false)), byteLevel(true), [{ content: 'word', normalized: true, special: false }]),
  'deepseek coder': make(bytes(), null, sequence(split('[\r\n]', 'Isolated'), split('\\s?\\p{L}+', 'Isolated'), split('\\s?\\p{P}+', 'Isolated'), split('[一-龥ࠀ-一가-퟿]+', 'Isolated'), { type: 'Digits', individual_digits: true }, split('\\s+$', 'Isolated'), byteLevel(false)), byteLevel(true), []),
  'falcon': make(bytes(), null, sequence({ type: 'Punctuation', behavior: 'Contiguous' }, byteLevel(true), { type: 'Digits', individual_digits: false }, split('[0-9][0-9][0-9]', 'Isolated')), byteLevel(true), []),
  'bloom': make(bytes(), null, sequence(split(' ?[^(\\s|[.,!?…。，、।۔،])]+', 'Isolated'), byteLevel(false)), byteLevel(true), []),
  'prefix space': make(bytes(), null, sequence({ type: 'Digits', individual_digits: true }, { ...byteLevel(true), add_prefix_space: true }), byteLevel(true), edges),
  'whitespace': make(pieces(), { type: 'NFKC' }, { type: 'Whitespace' }, null, edges),
  'whitespace split': make(pieces(), { type: 'Lowercase' }, sequence({ type: 'WhitespaceSplit' }, metaspace('first', true)), { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true }, edges),
  'bert': make(pieces(), { type: 'Sequence', normalizers: [{ type: 'NFD' }, { type: 'StripAccents' }, { type: 'Strip', strip_left: true, strip_right: true }] }, { type: 'BertPreTokenizer' }, null, edges),
  'words': make(bytes(), null, sequence(split('\\w+|[^\\w\\s]', 'Isolated'), split('\\S*[\\d\\S]\\S*', 'MergedWithPrevious'), split('(?i:word|\\u00e9)', 'Contiguous'), byteLevel(false)), byteLevel(true), []),
  'replace': make(pieces(), { type: 'Sequence', normalizers: [{ type: 'NFKD' }, { type: 'Replace', pattern: { Regex: '\\s+' }, content: '▁' }] }, { type: 'Split', pattern: { Regex: '▁' }, behavior: 'MergedWithNext', invert: false }, fallback, edges),
  'partial fallback': make(partial(false), { type: 'Replace', pattern: { String: ' ' }, content: '▁' }, null, fallback, []),
  'fused': make(partial(true), null, { type: 'Punctuation', behavior: 'Removed' }, fallback, []),
  'roberta': { ...make(bytes(), null, byteLevel(true), byteLevel(true), [{ content: '<s>' }, { content: '</s>' }]) },
  'spaces': make(pieces(), { type: 'Replace', pattern: { String: ' ' }, content: '▁' }, { type: 'Split', pattern: { String: '▁' }, behavior: 'MergedWithPrevious', invert: false }, fallback, []),
};
const bits = [' ', '  ', '\n', '\t', '\r\n', 'a', 'B', 'é', 'e\u0301', "'s", "'LL", "'ſ", 'word', 'wordy', 'words', '<L>', '<R>', '<B>', '<N>', 'n l', '1', '23', '4567', '½', '中', '▁', '<s>', '🙂', '\u00a0', '\u200d', 'ǅ', 'ª', 'ʰ', '\u0300', '!', '/', '_', 'ABab', '\u0000', 'नि', ' sp '];
let r = 12345;
const random = n => (r = (r * 1103515245 + 12345) & 0x7fffffff) % n;
const strings = ['', ' ', 'word', '<R> sp x', '<B>  sp  sp <L> <L>', 'a' + '\u0301'.repeat(35) + '\u0323\u0323\u3099', '\u0323'.repeat(40) + 'ᄀ' + '\u1161' + '\u11a8', 'İıẞ', '１２ﬁ' , '\u0985\u09c7\u09be\u200c!?'];
for (let i = 0; i < 150; i++) {
  let s = '';
  for (let n = 1 + random(8); n > 0; n--) s += bits[random(bits.length)];
  strings.push(s);
}
const out = { strings, cases: [] };
for (const [name, tokenizer] of Object.entries(cases)) {
  const t = Tokenizer.fromString(JSON.stringify(tokenizer)), ids = [], decoded = [];
  for (const s of strings) {
    const i = Array.from((await t.encode(s, null, { addSpecialTokens: false })).getIds());
    ids.push(i);
    decoded.push(i.length ? await t.decode(i, false) : '');
  }
  out.cases.push({ name, tokenizer, ids, decoded });
}
console.log(JSON.stringify(out));
