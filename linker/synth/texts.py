"""Everyday sentences of our own in sixteen languages: what the synthetic speakers say. Thai carries its pronunciation.

Japanese is written in kana with spaces between phrases and Thai is paired with phoneme mnemonics in `[[...]]`,
because the speech synthesiser reads neither kanji nor Thai spelling well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "Good morning, it is lovely to see you again.",
        "The market opens early, so we should leave before seven.",
        "My brother bought a blue bicycle last summer.",
        "Please move the big box from the middle of the room.",
        "We walked along the river and fed the ducks.",
        "What would you like to drink with your meal?",
        "Five people were waiting for the very first bus.",
        "I forgot my umbrella, and now it is pouring outside.",
        "She baked a warm apple pie for both of our families.",
        "Could you show me how this old machine works?",
        "The children found a small frog behind the house.",
        "Let us meet by the fountain on Wednesday afternoon.",
    ),
    "zh": (
        "早上好，很高兴又见到你。",
        "我妈妈买了很多苹果和面包。",
        "明天我们坐火车去看爷爷。",
        "请把门打开，外面有人敲门。",
        "你想喝茶还是喝牛奶？",
        "小朋友们在公园里跑步。",
        "今天的天气比昨天好多了。",
        "他每天晚上都听音乐看书。",
        "我们的办公室在八楼旁边。",
        "不用担心，我马上就回来。",
        "这家饭馆的鱼非常好吃。",
        "周末我们一起去爬山吧。",
    ),
    "ja": (
        "おはよう ございます、きょうも いい てんき ですね。",
        "わたしは まいあさ パンと たまごを たべます。",
        "えきの まえで ともだちと まって います。",
        "あたらしい ぼうしを かいました。",
        "でんしゃは なんじに つきますか。",
        "こどもたちが こうえんで あそんで います。",
        "ゆうべは ほしが とても きれい でした。",
        "この みせの みそしるは ほんとうに おいしい です。",
        "すみません、もう いちど ゆっくり はなして ください。",
        "ははは にわで はなを そだてて います。",
        "らいしゅう やまへ いく つもり です。",
        "ふゆは さむいので、まどを しめましょう。",
    ),
    "ko": (
        "안녕하세요, 다시 만나서 정말 반가워요.",
        "오늘 아침에는 비가 많이 왔어요.",
        "어머니가 맛있는 밥을 만들어 주셨어요.",
        "우리 집 앞에 작은 빵집이 있어요.",
        "버스를 타고 바다에 가고 싶어요.",
        "물 한 잔만 주시겠어요?",
        "친구와 함께 공원에서 걸었어요.",
        "내일은 도서관에서 책을 읽을 거예요.",
        "이 노래를 들으면 기분이 좋아져요.",
        "고양이가 문 밖에서 기다려요.",
        "몇 시에 출발하면 될까요?",
        "아버지는 매일 나무에 물을 주세요.",
    ),
    "fr": (
        "Bonjour, je suis heureux de vous revoir.",
        "Nous avons mangé du pain et du fromage au bord du lac.",
        "Ma voisine promène son petit chien tous les matins.",
        "Où est-ce que vous avez trouvé ce beau chapeau ?",
        "Il pleut depuis lundi, mais demain il fera beau.",
        "Le train pour la montagne part dans vingt minutes.",
        "Mon père prépare une bonne soupe aux légumes.",
        "Pouvez-vous fermer la fenêtre, s'il vous plaît ?",
        "Les enfants jouent au ballon devant la maison.",
        "J'ai oublié mes lunettes sur la table de la cuisine.",
        "Ce film m'a beaucoup plu, et toi ?",
        "On se retrouve vendredi soir près du pont.",
    ),
    "th": (
        "สวัสดีครับ ยินดีที่ได้พบคุณอีก",
        "วันนี้อากาศดีมาก",
        "แม่ซื้อผลไม้ที่ตลาด",
        "ผมอยากไปทะเลกับเพื่อน",
        "คุณชอบดื่มชาหรือกาแฟ",
        "รถเมล์มาถึงตอนแปดโมง",
        "น้องกำลังเล่นฟุตบอล",
        "ขอน้ำเปล่าสองแก้ว",
        "บ้านของเราอยู่ใกล้แม่น้ำ",
        "พรุ่งนี้ฝนจะตกหรือเปล่า",
        "แมวตัวนี้นอนทั้งวัน",
        "ขอบคุณมากแล้วพบกันใหม่",
    ),
    "de": (
        "Guten Morgen, schön, dass ihr wieder da seid.",
        "Mein Bruder hat gestern ein neues Fahrrad gekauft.",
        "Wir gehen heute Abend am Fluss spazieren.",
        "Könnten Sie bitte das Fenster zumachen?",
        "Im Sommer schwimmen wir oft im kleinen See.",
        "Der Zug nach Hamburg fährt um halb fünf ab.",
        "Meine Oma backt den besten Apfelkuchen.",
        "Was möchtest du zum Frühstück trinken?",
        "Die Kinder bauen einen Turm aus bunten Steinen.",
        "Vergiss bitte nicht, die Blumen zu gießen.",
        "Der Hund bellt, weil jemand vor der Tür steht.",
        "Am Freitag treffen wir uns auf dem Markt.",
    ),
    "es": (
        "Buenos días, me alegro mucho de verte.",
        "Mi abuela prepara una sopa muy buena.",
        "El autobús llega a las nueve y media.",
        "¿Quieres tomar un poco de agua fresca?",
        "Los niños juegan con la pelota en la plaza.",
        "Ayer llovió toda la tarde en el pueblo.",
        "Vamos a comprar pan, fruta y pescado.",
        "Mi hermano trabaja en una oficina pequeña.",
        "¿Puedes abrir la ventana, por favor?",
        "La semana que viene viajamos a la montaña.",
        "Ese gato blanco duerme siempre bajo la mesa.",
        "Nos vemos el viernes delante del museo.",
    ),
    "it": (
        "Buongiorno, sono felice di rivedervi.",
        "Mio nonno coltiva pomodori e fagioli nell'orto.",
        "Il treno per Bologna parte fra dieci minuti.",
        "Vuoi bere un bicchiere d'acqua?",
        "I bambini corrono sulla spiaggia.",
        "Ieri sera abbiamo guardato un bel film.",
        "Per favore, chiudi la porta prima di uscire.",
        "La mia amica suona il pianoforte ogni giorno.",
        "Domani mattina andiamo al mercato.",
        "Questa zuppa è davvero buona.",
        "Dove hai messo le chiavi della macchina?",
        "Ci vediamo venerdì vicino al ponte.",
    ),
    "pt": (
        "Bom dia, é muito bom ver você de novo.",
        "Minha mãe fez um bolo de milho.",
        "O ônibus passa perto da nossa casa.",
        "Você quer beber um copo de água?",
        "As crianças brincam no parque depois da aula.",
        "Ontem choveu muito aqui na cidade.",
        "Vamos comprar pão, peixe e frutas.",
        "Meu irmão gosta de caminhar na praia.",
        "Por favor, abra a janela do quarto.",
        "O gato preto dorme em cima da cadeira.",
        "Amanhã cedo viajamos para a montanha.",
        "A gente se encontra na sexta à noite.",
    ),
    "ru": (
        "Доброе утро, я очень рад вас видеть.",
        "Мама купила яблоки и свежий хлеб.",
        "Мы поедем к бабушке на поезде.",
        "Закройте, пожалуйста, окно.",
        "Дети играют во дворе с мячом.",
        "Вчера весь вечер шёл тёплый дождь.",
        "Хотите чаю или воды?",
        "Мой брат работает в большом музее.",
        "Наша кошка любит спать на подоконнике.",
        "Этот фильм мне очень понравился.",
        "Не забудьте взять с собой шапку.",
        "В пятницу мы встретимся у моста.",
    ),
    "hi": (
        "नमस्ते, आपसे फिर मिलकर खुशी हुई।",
        "आज सुबह मौसम बहुत अच्छा है।",
        "माँ बाज़ार से फल और सब्ज़ी लाई।",
        "बच्चे मैदान में गेंद खेल रहे हैं।",
        "क्या आप चाय पिएँगे?",
        "मेरा भाई हर दिन किताब पढ़ता है।",
        "कृपया दरवाज़ा बंद कर दीजिए।",
        "हम कल नदी के पास घूमने जाएँगे।",
        "यह फूल बहुत सुंदर है।",
        "गाड़ी पाँच बजे स्टेशन पर आएगी।",
        "मुझे यह पुराना गाना पसंद है।",
        "शाम को बाहर ठंडी हवा चलती है।",
    ),
    "ar": (
        "صَبَاحُ الخَيْرِ، أَنَا سَعِيدٌ بِرُؤْيَتِكَ.",
        "اِشْتَرَتْ أُمِّي خُبْزًا وَتُفَّاحًا.",
        "يَلْعَبُ الأَوْلَادُ فِي الحَدِيقَةِ.",
        "هَلْ تُرِيدُ كُوبًا مِنَ المَاءِ؟",
        "ذَهَبْنَا إِلَى البَحْرِ فِي الصَّيْفِ.",
        "هَذَا الكِتَابُ جَمِيلٌ جِدًّا.",
        "بَيْتُنَا قَرِيبٌ مِنَ السُّوقِ.",
        "يَصِلُ القِطَارُ بَعْدَ سَاعَةٍ.",
        "مِنْ فَضْلِكَ، أَغْلِقِ البَابَ.",
        "أَخِي يَعْمَلُ فِي مَكْتَبٍ كَبِيرٍ.",
        "القَمَرُ مُنِيرٌ هَذِهِ اللَّيْلَةَ.",
        "نَلْتَقِي يَوْمَ الجُمُعَةِ مَسَاءً.",
    ),
    "tr": (
        "Günaydın, sizi yeniden görmek çok güzel.",
        "Annem pazardan elma ve ekmek aldı.",
        "Çocuklar bahçede top oynuyor.",
        "Bir bardak su içer misin?",
        "Otobüs on dakika sonra gelecek.",
        "Dün akşam bütün şehirde yağmur yağdı.",
        "Kardeşim büyük bir okulda çalışıyor.",
        "Lütfen pencereyi kapatır mısınız?",
        "Yazın deniz kenarında yürümeyi severiz.",
        "Bu çorba gerçekten çok lezzetli.",
        "Kedimiz hep masanın altında uyur.",
        "Cuma günü köprünün yanında buluşalım.",
    ),
    "pl": (
        "Dzień dobry, bardzo miło znowu was widzieć.",
        "Mama kupiła jabłka i świeży chleb.",
        "Pociąg do Krakowa odjeżdża o piątej.",
        "Dzieci bawią się piłką przed domem.",
        "Czy chcesz napić się wody?",
        "Wczoraj cały wieczór padał deszcz.",
        "Mój brat pracuje w małym biurze.",
        "Proszę zamknąć okno w kuchni.",
        "Latem często pływamy w jeziorze.",
        "Ta zupa jest naprawdę dobra.",
        "Nasz pies śpi zawsze pod stołem.",
        "Spotkajmy się w piątek przy moście.",
    ),
    "nl": (
        "Goedemorgen, wat fijn om je weer te zien.",
        "Mijn moeder bakt een brood voor het ontbijt.",
        "De trein vertrekt over tien minuten.",
        "Wil je een glas water of een kopje thee?",
        "De kinderen spelen met een bal in het park.",
        "Gisteren heeft het de hele avond geregend.",
        "Mijn broer werkt op een klein kantoor.",
        "Doe de deur alsjeblieft achter je dicht.",
        "In de zomer fietsen we vaak langs het water.",
        "Deze soep smaakt echt heel goed.",
        "De kat slaapt altijd onder de tafel.",
        "Tot vrijdag, we zien elkaar bij de brug.",
    ),
}

# Thai, in the same order: mnemonics of the synthesiser's Thai voice; digits are tones
# (1 mid, 2 low, 3 falling, 4 high, 5 rising), W is the unrounded back vowel.
_THAI = (
    "s@w'a2td'i:1 khr'a4p j'i1nd'i:1 th'i:3 d'a:i3 ph'o4p kh'u1n 'i:2k",
    "w'a1nn'i:4 ?a:1k'a:2t d'i:1 m'a:3k",
    "m'E:3 s'W:4 ph'o5nl@m'a:i4 th'i:3 t@l'a:2t",
    "ph'o5m j'a:2k p'ai1 th@l'e:1 k'a2p ph'W3@n",
    "kh'u1n ch'O:3p d'W:2m ch'a:1 r'W:5 k'a:1f'E:1",
    "r'o4tm'e:1 m'a:1th'W5N t'O:1n p'E:2t m'o:1N",
    "n'O:4N k@ml'a1N l'e3n f'u4tb'O:1n",
    "kh'O:5 n'a:4m pl'a:u2 s'O:5N k'E:3w",
    "b'a:3n kh'O:5N r'au1 j'u:2 kl'ai3 m'E:3n'a:4m",
    "phr'u3Nn'i:4 f'o5n c@t'o2k r'W:5 pl'a:u2",
    "m'E:1w t'u1@ n'i:4 n'O:1n th'a4Nw'a1n",
    "kh'O:2pkh'u1n m'a:3k l'E:4w ph'o4p k'a1n m'ai2",
)
GREETINGS: dict[str, str] = {
    "en": "Hello and welcome. May I tell you about our morning?",
    "zh": "大家好，我们一起喝杯茶吧。",
    "ja": "みなさん、こんにちは。たのしく はなしましょう。",
    "ko": "여러분, 만나서 정말 반가워요.",
    "fr": "Bonjour à tous. Prenons un moment pour parler ensemble.",
    "th": "สวัสดีทุกคน เรามาพูดคุยกัน",
}
_THAI_GREETING = "s@w'a2td'i:1 th'u4k kh'o1n _: r'au1 m'a:1 ph'u:3t kh'u1i k'a1n"

SPOKEN: dict[str, str] = {
    text: f"[[{sounds}]]"
    for text, sounds in zip((*SENTENCES["th"], GREETINGS["th"]), (*_THAI, _THAI_GREETING), strict=True)
}


def spoken(text: str) -> str:
    """What the synthesiser is given for `text`: its phonemes where we wrote them down, else the text itself."""
    return SPOKEN.get(text, text)


def shuffled(text: str, rng: np.random.Generator) -> str:
    """`text` as it is spoken, its words (or pairs of Chinese characters) in random order."""
    return _reworded(text, lambda words: list(rng.permutation(words)))


def phrase(text: str, rng: np.random.Generator) -> str:
    """Two to four words of `text` that follow each other, as they are spoken."""

    def some(words: list[str]) -> list[str]:
        count = int(rng.integers(2, 5))
        first = int(rng.integers(max(1, len(words) - count + 1)))
        return words[first : first + count]

    return _reworded(text, some)


def _reworded(text: str, change: Callable[[list[str]], list[str]]) -> str:
    sounds = spoken(text)
    inside = sounds.removeprefix("[[").removesuffix("]]")
    changed = " ".join(change(_words(inside)))
    return f"[[{changed}]]" if inside != sounds else changed


def _words(text: str) -> list[str]:
    pieces = text.split()
    if len(pieces) > 1:
        return pieces
    letters = [letter for letter in text if letter.isalpha()]
    return ["".join(letters[i : i + 2]) for i in range(0, len(letters), 2)]
