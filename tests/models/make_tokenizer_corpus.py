#!/usr/bin/env python3
"""Writes the tokenizer corpus: the same bytes on every machine and Python version.

usage: make_tokenizer_corpus.py OUT [--records N] [--seed S]

OUT holds N records, each a little-endian u32 length and that many bytes (not always valid UTF-8).
Random code points are taken from Unicode 3.2, which every Python carries and whose characters no library is too old for.
"""
import argparse
import random
import struct
import unicodedata

SENTENCES = [
    "All human beings are born free and equal in dignity and rights.", "The quick brown fox jumps over the lazy dog.",
    "I can't believe it's not butter; we'll see what they've done, I'd say you're right and I'm wrong.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.", "L'été n'est pas fini, aujourd'hui c'est déjà l'automne.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Die Straße ist groß.", "Todos los seres humanos nacen libres; ¿qué pasó, señor Muñoz?",
    "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.", "Wszyscy ludzie rodzą się wolni i równi w swej godności. Zażółć gęślą jaźń.",
    "Všichni lidé rodí se svobodní. Příliš žluťoučký kůň úpěl ďábelské ódy.", "Kaikki ihmiset syntyvät vapaina. Törkylempijävongahdus.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.", "Bütün insanlar hür doğarlar. IĞDIR'ın ıslak ışığı İstanbul'da.",
    "Все люди рождаются свободными и равными в своём достоинстве и правах.", "Всі люди народжуються вільними; п'ять з'їздів.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.", "ყველა ადამიანი იბადება თავისუფალი.", "Բոլոր մարդիկ ծնվում են ազատ։",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。", "人人生而自由,在尊嚴和權利上一律平等。", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "カタカナとひらがなと漢字ｶﾅ半角。「引用」と『二重』。", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.", "안녕하세요, 오늘 날씨가 좋네요!",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا.", "السَّلَامُ عَلَيْكُمْ ١٢٣٤٥٦٧٨٩٠ ؟ ، ؛", "تمام انسان آزاد پیدا می‌شوند و از لحاظ حیثیت برابرند.",
    "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔", "כל בני אדם נולדו בני חורין ושווים בערכם. שָׁלוֹם עֲלֵיכֶם",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।", "क़लम ज़रूर फ़र्क़ पढ़ना १२३४५६ श्री क्षत्रिय ज्ञान।", "सर्व मानवी व्यक्ति जन्मतः स्वतंत्र आहेत.",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।", "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.", "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ", "ມະນຸດທຸກຄົນເກີດມາມີອິດສະຫຼະພາບ", "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့်", "មនុស្សទាំងអស់កើតមកមានសេរីភាព",
    "ሁሉም ሰዎች በነጻነት የተወለዱ ናቸው።", "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས", "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ", "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ", "ꓥ ꓡꓲ-ꓢꓴ",
]
CODE = [
    "def f(x, *args, **kw):\n    return [i**2 for i in range(10) if i % 3 == 0]\n", "#include <vector>\nint main() { std::vector<int> v{1,2,3}; return v[0]->x; }\n",
    "\tfor (let i=0;i<n;++i){\n\t\tconsole.log(`${i}: ${a[i]??'none'}`);\n\t}\n", "SELECT * FROM t WHERE a='b''c' AND d>=3.14e-10;--comment",
    "fn main() -> Result<(), Box<dyn Error>> { println!(\"{:?}\", x?); Ok(()) }", "<div class=\"a b\"><p>Hello&nbsp;&amp;</p><!-- x --></div>",
    "{\"key\": [1, 2.5, null, true, \"v\\n\\u00e9\"], \"k2\": {}}", "| a | b |\n|---|:-:|\n| 1 | **x** |\n\n```py\nx = 1\n```\n", "https://example.com/a/b?c=d&e=%20f#g user@mail.org C:\\Users\\x",
    "$ ls -la | grep '^d' && echo \"done\" > /dev/null 2>&1", "\\frac{a}{b} + \\sum_{i=0}^{n} x_i^2 = \\int_0^\\infty e^{-x}dx", "x86_64 v1.2.3-rc4+build.5 0xDEADBEEF 1_000_000 0b1010 3.14159f 1e-9 #ff00AA",
    "if(a&&b||!c){return(d?e:f);}//TODO\r\n\r\n\r\n", "class   A  extends B{}\n\n\n\n  }\n    }\n", "@decorator\nasync def g(): await h(); yield from k()\n", "camelCaseWord PascalCaseWord snake_case_word SCREAMING_CASE kebab-case-word HTTPServerError",
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "👩🏻‍💻", "1️⃣", "🧑‍🤝‍🧑", "☺", "⚡️", "🤷🏿‍♀️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🫠", "©️", "🐈‍⬛", "\u200d", "\ufe0f", "🏽", "🇦"]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<0x0A>", "<0xE2>",
            "<unused0>", "<|", "|>", "<|im_start", "im_end|>", "<think>", "</think>", "<tool_call>", "[INST]", "<|fim_prefix|>", "<file_sep>", "<table>", "</table>",
            "<h1>", "<｜User｜>", "[multimodal]", "<mask>", "<i>", "</i>", "<repo_name>", "<start_of_image>", "▁", "▁▁", "Ġ", "Ċ", "ĠĠ"]
SPACES = [" ", " ", " ", "  ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2003", "\u3000", "\u0085", "\u2028", "\u2029", "\u202f", "\u1680", "\u180e", "\u200b", "\ufeff", "\x0b", "\x0c", "\x1c", "\x1f"]
APOSTROPHES = ["'s", "'S", "'t", "'T", "'re", "'RE", "'Re", "'ve", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D", "'", "''", "’s", "’t", "ʼs", "'x", "'ſ", "'l", "'v", " 's", "n't", "'sx", "'tis", "'em", "'éd"]
MARKS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030c\u0323\u0327\u0328\u0331\u0338\u0342\u0345\u093c\u094d\u05b0\u0591\u064b\u0651\u0670\u3099\u309a\u0e38\u0f71\u0f72\u20dd\u1100\u1161\u11a8"
SCRIPTS = {
    "cjk": [(0x3040, 0x30FF), (0x4E00, 0x9FA5), (0x4E00, 0x5FFF), (0x3000, 0x303F), (0xFF01, 0xFF9F), (0x20000, 0x2A6D6), (0xAC00, 0xD7A3), (0x3400, 0x4DB5), (0xF900, 0xFA2D)],
    "arabic": [(0x0600, 0x06FF), (0x0621, 0x064A), (0x064B, 0x0655), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC), (0x0660, 0x0669)],
    "devanagari": [(0x0901, 0x0970), (0x0915, 0x0939), (0x093E, 0x094D), (0x0958, 0x095F), (0x0966, 0x096F)],
    "other": [(0x0370, 0x03FF), (0x0400, 0x04FF), (0x0531, 0x0587), (0x0591, 0x05F4), (0x0980, 0x0DF4), (0x0E01, 0x0E5B), (0x0F00, 0x0FCF), (0x10A0, 0x11F9), (0x1200, 0x1380), (0x13A0, 0x13F4), (0x1780, 0x17E9), (0x1E00, 0x1FFE)],
    "symbols": [(0x2000, 0x206F), (0x2070, 0x209F), (0x20A0, 0x20B1), (0x2100, 0x218F), (0x2190, 0x23FF), (0x2460, 0x24FF), (0x2500, 0x27BF), (0x1D400, 0x1D7FF), (0xA1, 0xBF)],
    "latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x17F), (0x180, 0x24F), (0x250, 0x2AD), (0xFB00, 0xFB06), (0x1E00, 0x1EF9), (0x2B0, 0x2EE)],
    "all": [(0x20, 0x2FF), (0x300, 0xFFFF), (0x10000, 0x10FFFF)],
}
ASSIGNED = {}


def characters(script):
    if script not in ASSIGNED:
        ok = lambda c: unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")
        ASSIGNED[script] = [[chr(c) for c in range(lo, hi + 1) if ok(c)] for lo, hi in SCRIPTS[script]]
    return ASSIGNED[script]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def below(self, n):
        return int(self.r.random() * n)   # randrange's algorithm has changed between Python versions, random()'s has not

    def pick(self, items):
        return items[self.below(len(items))]

    def many(self, make, low, high):
        return "".join(make() for _ in range(low + self.below(high - low + 1)))

    def char(self, script):
        return self.pick(self.pick(characters(script)))

    def word(self, script, high=8):
        return self.many(lambda: self.char(script), 1, high)

    def script_line(self, script):
        return self.many(lambda: self.word(script) + self.pick([" ", " ", "", ", ", "\n", "-", "1"]), 1, 12)

    def sentence(self):
        words = [w for _ in range(1 + self.below(2)) for w in self.pick(SENTENCES).split(" ")]
        begin = self.below(len(words))
        words = words[begin:begin + 3 + self.below(15)]
        case = self.below(12)
        if case == 0:
            words = [w.upper() for w in words]
        if case == 1:
            words = [w.title() for w in words]
        if case == 2:
            words = [unicodedata.ucd_3_2_0.normalize("NFD", w) for w in words]
        return self.pick([" ", " ", " ", " ", "  ", "\n", ""]).join(words)

    def code(self):
        text = self.pick(CODE) + self.pick(["", "", "\n"]) + self.pick(CODE)
        begin = self.below(len(text) // 2)
        indent = self.pick(["", "  ", "    ", "\t", "        ", "\t\t\t"])
        return text[begin:].replace("\n", "\n" + indent)

    def digits(self):
        make = lambda: self.pick(["", " ", "-", "+", "$", "  "]) + self.many(lambda: self.pick("0123456789"), 1, 9) + self.pick(["", "", ".", ",", "%", "th", " km", "e", "²", "½", "Ⅷ", "٣", "५", "①", "\n", ":", "/"])
        return self.many(make, 1, 12)

    def whitespace(self):
        make = lambda: self.pick(SPACES) * (1 + self.below(self.pick([2, 4, 40]))) + self.pick(["", "", "a", "word", "1", ".", "é", "字", "\n"])
        return self.many(make, 1, 10)

    def control(self):
        make = lambda: self.pick([chr(self.below(32)), chr(0x7F + self.below(34)), self.word("latin", 4), " ", "\x00", "\u200e", "\u2066", "\ufff9"])
        return self.many(make, 1, 20)

    def punctuation(self):
        make = lambda: self.pick("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»…—–“”‘’„†‡•§¶。、！？「」،؛؟।") * (1 + self.below(self.pick([1, 2, 12]))) + self.pick(["", "", " ", "a", "Word", "\n", "\r\n", "3", " é"])
        return self.many(make, 1, 14)

    def marks(self):
        make = lambda: self.pick(["a", "e", "o", "A", "क", "が", "か", "ạ", "ก", "ب", "\u1100\u1161", " ", "1", "ö", "Å", "ffi", "\u2126", "\u212b"]) + self.many(lambda: self.pick(MARKS), 0, 4)
        return self.many(make, 1, 15)

    def long_word(self):
        unit = self.pick([lambda: self.pick("abcdefghijklmnopqrstuvwxyz"), lambda: self.pick("ab"), lambda: self.char("cjk"), lambda: self.pick("=-_*#"), lambda: self.pick("ACGT")])
        return self.many(unit, 20, 400)

    def mixed(self):
        makers = [self.sentence, self.code, self.digits, self.whitespace, lambda: self.pick(EMOJI), lambda: self.pick(APOSTROPHES), self.punctuation, lambda: self.word("all"), lambda: self.pick(SPECIALS)]
        return self.many(lambda: self.pick(makers)(), 1, 5)

    def invalid(self):
        data = bytearray(self.pick([self.sentence, self.mixed, lambda: self.script_line("cjk"), lambda: self.many(lambda: self.pick(EMOJI), 1, 5)])().encode())
        for _ in range(1 + self.below(5)):
            at = self.below(len(data) + 1)
            kind = self.below(4)
            if kind == 0:
                data[at:at] = bytes([128 + self.below(128)])
            elif kind == 1:
                del data[at:at + 1 + self.below(2)]
            elif kind == 2:
                data[at:at] = self.pick([b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", b"\xfe", b"\x80\x80", b"\xe0\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xc3"])
            else:
                data = data[:max(1, at)]
        return bytes(data)

    def record(self, i):
        kinds = [
            self.sentence, self.sentence, self.sentence, self.code, self.digits, self.whitespace, self.control, self.punctuation, self.marks, self.long_word, self.mixed, self.invalid,
            lambda: self.script_line("cjk"), lambda: self.script_line("arabic"), lambda: self.script_line("devanagari"), lambda: self.script_line("other"),
            lambda: self.script_line("symbols"), lambda: self.script_line("latin"), lambda: self.script_line("all"),
            lambda: self.many(lambda: self.pick(EMOJI) + self.pick(["", "", " ", "a"]), 1, 10),
            lambda: self.many(lambda: self.pick(["I", "you", "WE", "été", "字", "", " ", "3", "_", "."]) + self.pick(APOSTROPHES) + self.pick(["", " ", "x"]), 1, 10),
            lambda: self.many(lambda: self.pick(SPECIALS) + self.pick(["", " ", "a", "\n", "user\nHello"]), 1, 8),
        ]
        made = kinds[i % len(kinds)]()
        return made if isinstance(made, bytes) else made.encode("utf-8", "surrogatepass")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--records", type=int, default=25000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    maker = Maker(args.seed)
    with open(args.out, "wb") as out:
        for i in range(args.records):
            data = maker.record(i)
            out.write(struct.pack("<I", len(data)) + data)


if __name__ == "__main__":
    main()
