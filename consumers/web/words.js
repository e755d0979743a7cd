// All that the page says, in both languages. {gaps} are filled by `say`.

export const WORDS = {
  en: {
    title: "What is this?",
    about:
      "A neural network of 800 neurons names clothing: ten classes, pictures of 28×28 pixels. " +
      "It runs here in the browser; photos stay on your device.",
    ask: "Choose what to name",
    tests: "Test pictures",
    photo: "Photo",
    drawing: "Drawing",
    testsHint: "The network never saw these in training. Arrow keys move, Enter chooses.",
    testName: "Test picture {number}: {label}",
    photoHint: "One thing on a plain, light background, seen from the front.",
    choose: "Choose a photo",
    dropHint: "drop it anywhere, or paste it",
    drawingHint:
      "Draw with a finger or a mouse. By keyboard: arrows move the pen, Space sets it down and lifts it.",
    filled: "Fill shapes",
    undo: "Undo",
    clear: "Clear",
    answer: "Answer",
    loading: "Loading the network…",
    ready: "Choose a picture",
    reading: "Reading the photo…",
    seen: "What the network sees: 28 by 28 pixels",
    result: "{name}, {percent}",
    labelRight: "That is its label too.",
    labelWrong: "Its label: {label}.",
    time: "Network: {network} ms.",
    timeBoth: "Picture: {picture} ms, network: {network} ms.",
    noNetwork: "The network can't be loaded: {reason}. `make page` brings its files.",
    empty: "The file is empty (0 bytes).",
    notPicture: "This is not a PNG, JPEG, WebP, GIF or BMP picture.",
    noFile: "There is no picture in what was dropped or pasted.",
    broken: "The picture is broken: it can't be decoded.",
    noPixels: "The picture has no pixels ({width} × {height}).",
    tooManyBytes: "The file has {size} bytes; at most 100,000,000 are read.",
    tooLarge: "{width} × {height} pixels are too many; at most 64 megapixels are decoded.",
    oneColour: "Nothing to see: the photo is all of one colour.",
    tooLight: "Nothing darker than its background; try a lighter background.",
  },
  ru: {
    title: "Что это?",
    about:
      "Нейронная сеть из 800 нейронов узнаёт одежду: десять классов, картинки 28×28 пикселей. " +
      "Она работает прямо в браузере; фотографии не покидают устройство.",
    ask: "Выберите, что узнать",
    tests: "Тестовые",
    photo: "Фото",
    drawing: "Рисунок",
    testsHint: "При обучении сеть их не видела. Стрелки — перейти, Enter — выбрать.",
    testName: "Тестовая картинка {number}: {label}",
    photoHint: "Один предмет спереди, на ровном светлом фоне.",
    choose: "Выберите фото,",
    dropHint: "перетащите его сюда или вставьте из буфера",
    drawingHint:
      "Рисуйте пальцем или мышью. С клавиатуры: стрелки ведут перо, пробел опускает и поднимает его.",
    filled: "Закрашивать",
    undo: "Отменить",
    clear: "Стереть",
    answer: "Ответ",
    loading: "Сеть загружается…",
    ready: "Выберите картинку",
    reading: "Читаю фото…",
    seen: "Что видит сеть: 28 на 28 пикселей",
    result: "{name}, {percent}",
    labelRight: "Так и размечено.",
    labelWrong: "Размечено: {label}.",
    time: "Сеть: {network} мс.",
    timeBoth: "Картинка: {picture} мс, сеть: {network} мс.",
    noNetwork: "Сеть не загрузилась: {reason}. Её файлы приносит `make page`.",
    empty: "Файл пуст (0 байт).",
    notPicture: "Это не картинка PNG, JPEG, WebP, GIF или BMP.",
    noFile: "В том, что перетащили или вставили, нет картинки.",
    broken: "Картинка повреждена: её не удалось прочитать.",
    noPixels: "В картинке нет пикселей ({width} × {height}).",
    tooManyBytes: "В файле {size} байт; читается не больше 100 000 000.",
    tooLarge: "{width} × {height} пикселей — слишком много; читается не больше 64 мегапикселей.",
    oneColour: "Ничего не видно: всё фото одного цвета.",
    tooLight: "Нет ничего темнее фона; попробуйте фон посветлее.",
  },
};

/** Fill the gaps of a sentence; numbers are written as the language has them. */
export function say(language, key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) =>
    typeof values[name] === "number" ? values[name].toLocaleString(language) : values[name],
  );
}
