"""Sentences to verify a checkpoint with, where the operator brings none."""

from collections.abc import Mapping

SAMPLE_TEXTS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "The coffee is cold.",
        "Where is the nearest station?",
        "My brother has worked in a small town near the sea for three years.",
        "If it rains tomorrow, we will stay at home and read.",
        "The committee published its report on Tuesday, 14 March, after a long debate.",
        "Bridges age, and inspecting them is expensive.",
        "She had never seen such a large garden, nor such an old house.",
        "I don't know what to say, but I think that you are right about this.",
    ),
    "de": (
        "Der Kaffee ist kalt.",
        "Die Kinder spielen im Garten, obwohl es schon dunkel wird.",
        "Könnten Sie mir bitte sagen, wie spät es ist?",
        "Das Buch, das du mir geliehen hast, gefällt mir sehr.",
    ),
    "fr": (
        "Le train part à huit heures et demie.",
        "Elle a oublié ses clés dans la voiture de son père.",
        "Nous n'avons pas encore décidé où passer les vacances.",
        "Où se trouve la gare la plus proche ?",
    ),
    "es": (
        "¿Dónde está la biblioteca?",
        "El año pasado viajamos en tren por todo el país.",
        "No me gusta el café, prefiero una taza de té.",
        "Mi hermano trabaja en una ciudad pequeña cerca del mar.",
    ),
    "it": (
        "Il museo è chiuso il lunedì.",
        "Vorrei prenotare un tavolo per quattro persone.",
        "Dove si trova la stazione più vicina?",
        "Se domani piove, restiamo a casa a leggere.",
    ),
    "ro": (
        "Piața este deschisă în fiecare dimineață.",
        "Profesorul le-a citit elevilor o poveste lungă.",
        "Unde este cea mai apropiată gară?",
        "Fratele meu lucrează într-un oraș mic.",
    ),
    "pl": (
        "Gdzie jest najbliższa apteka?",
        "Jutro ma padać śnieg, więc pojedziemy pociągiem.",
        "Mój brat pracuje w małym mieście.",
        "Ta książka bardzo mi się podoba.",
    ),
    "ru": (
        "Сегодня утром было очень холодно.",
        "Моя сестра учится в университете в большом городе.",
        "Где находится ближайшая станция?",
        "Эта книга мне очень нравится.",
    ),
    "zh": (
        "我们今天下午一起去公园。",
        "这本书是我哥哥去年写的。",
        "请给我一杯热茶。",
        "他在一个小城市工作。",
    ),
    "ja": (
        "駅はどこですか。",
        "昨日、友達と一緒に映画を見ました。",
        "兄は小さな町で働いています。",
        "この本はとても面白いです。",
    ),
    "ar": (
        "أين أقرب محطة قطار؟",
        "كتبت المعلمة رسالة طويلة إلى والدي الطلاب.",
        "يعمل أخي في مدينة صغيرة.",
        "أحب شرب الشاي في الصباح.",
    ),
    "hi": (
        "मुझे एक कप चाय चाहिए।",
        "रेलवे स्टेशन कहाँ है?",
        "मेरा भाई एक छोटे शहर में काम करता है।",
        "यह किताब बहुत अच्छी है।",
    ),
    "tr": (
        "Bugün hava çok güzel, parka gidelim mi?",
        "Köpek bahçede uyuyor.",
        "Yeni bir kitap okuyorum.",
        "Otobüs saat sekizde gelecek.",
    ),
    "sw": (
        "Watoto wanacheza mpira nje ya shule.",
        "Kituo cha treni kiko wapi?",
        "Kaka yangu anafanya kazi katika mji mdogo.",
        "Ninapenda kunywa chai asubuhi.",
    ),
    "vi": (
        "Hôm nay trời mưa nên chúng tôi ở nhà.",
        "Nhà ga gần nhất ở đâu?",
        "Anh trai tôi làm việc ở một thành phố nhỏ.",
        "Tôi thích uống trà vào buổi sáng.",
    ),
}
"""Sentences by language."""
