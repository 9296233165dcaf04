// What the page says, in English and Chinese. {n} and the like are filled in by say().

import { local } from "./memory.js";

const WORDS = {
  en: {
    skip: "Skip to the question",
    model: "Model",
    copy: "Copy",
    download: "Download",
    clear: "Clear",
    settings: "Settings",
    conversation: "Conversation",
    system: "System message",
    temperature: "Temperature",
    temperatureHint: "0 always takes the likeliest word",
    topP: "Top-p",
    maxTokens: "Longest answer, in tokens",
    seed: "Seed",
    seedHint: "the same seed, the same answer",
    key: "API key",
    keyHint: "kept until this tab is closed",
    settingsHint: "An empty field leaves the choice to the model.",
    done: "Done",
    picture: "Pictures",
    address: "Picture URL",
    addressOf: "URL of a picture (https://…)",
    addressHint: "The server fetches it, so the server must allow this address.",
    cancel: "Cancel",
    add: "Add",
    question: "Question",
    ask: "Ask about the pictures",
    send: "Send",
    stop: "Stop",
    hint: "Drop or paste pictures anywhere. Enter sends, Shift+Enter starts a new line, Esc stops.",
    drop: "Drop the pictures here",
    you: "You",
    pictureNumber: "Picture {n}",
    pictureNamed: "Picture {n}, {name}",
    attached: "Pictures to send",
    reading: "A picture is being read.",
    remove: "Remove picture {n}",
    emptyTitle: "Ask about a picture",
    empty: "Add one or more pictures and ask. Ask where something is, and the answer draws a box around it.",
    exampleDescribe: "What is in the picture?",
    exampleBox: "Box the dog in the picture.",
    exampleCompare: "Compare the two pictures.",
    retry: "Ask again",
    edit: "Edit",
    editing: "You are editing an earlier question. Sending it removes everything after it.",
    copyAnswer: "Copy",
    copyPicture: "Copy picture",
    savePicture: "Download picture",
    boxesOn: "Picture {n} with boxes: {boxes}",
    boxAt: "{name} from ({left}, {top}) to ({right}, {bottom})",
    unnamed: "box {n}",
    answered: "Answer: {text}",
    writing: "The answer is being written.",
    copied: "Copied.",
    stopped: "Stopped.",
    brokenOff: "The answer broke off.",
    cut: "The answer reached the length limit.",
    took: "{tokens} tokens, {seconds} s",
    gone: "The server does not answer. The conversation is kept. You can ask again when the server is back.",
    loading: "The model is still loading. You can ask as soon as it is ready.",
    back: "The server is ready again.",
    removed: "Later turns were removed.",
    cleared: "The conversation was cleared.",
    undo: "Undo",
    close: "Close this notice",
    unreadable: "{name}: this browser cannot read it as a picture.",
    unnamedFile: "The file",
    badAddress: "A picture's URL begins with http:// or https://.",
    badSetting: "A setting is out of range.",
    needsKey: "The server asks for an API key. Enter it under Settings.",
    refused: "The server refused: {reason}",
    failed: "Something went wrong in the page: {reason}",
    noCopy: "The browser does not allow copying here.",
    notKept: "This browser does not let the page keep the conversation. It is lost when the tab is closed.",
  },
  zh: {
    skip: "跳到提问框",
    model: "模型",
    copy: "复制",
    download: "下载",
    clear: "清空",
    settings: "设置",
    conversation: "对话",
    system: "系统消息",
    temperature: "温度",
    temperatureHint: "0 表示总取最可能的词",
    topP: "Top-p",
    maxTokens: "回答的最大长度（token 数）",
    seed: "随机种子",
    seedHint: "种子相同，回答相同",
    key: "API 密钥",
    keyHint: "保留到此标签页关闭",
    settingsHint: "留空则由模型决定。",
    done: "完成",
    picture: "图片",
    address: "图片网址",
    addressOf: "图片网址（https://…）",
    addressHint: "由服务器下载，因此须在服务器允许的范围内。",
    cancel: "取消",
    add: "添加",
    question: "问题",
    ask: "就图片提问",
    send: "发送",
    stop: "停止",
    hint: "图片可以拖放或粘贴到页面任意位置。回车发送，Shift+回车换行，Esc 停止。",
    drop: "把图片放在这里",
    you: "我",
    pictureNumber: "图片 {n}",
    pictureNamed: "图片 {n}，{name}",
    attached: "待发送的图片",
    reading: "正在读取图片。",
    remove: "移除图片 {n}",
    emptyTitle: "就图片提问",
    empty: "添加一张或多张图片，然后提问。问某个东西在哪里，回答会在图上画出方框。",
    exampleDescribe: "图片里有什么？",
    exampleBox: "框出图中的狗。",
    exampleCompare: "比较这两张图片。",
    retry: "重新回答",
    edit: "编辑",
    editing: "正在编辑之前的问题。发送后，其后的内容将被移除。",
    copyAnswer: "复制",
    copyPicture: "复制图片",
    savePicture: "下载图片",
    boxesOn: "带方框的图片 {n}：{boxes}",
    boxAt: "{name}，从 ({left}, {top}) 到 ({right}, {bottom})",
    unnamed: "方框 {n}",
    answered: "回答：{text}",
    writing: "正在回答。",
    copied: "已复制。",
    stopped: "已停止。",
    brokenOff: "回答中断了。",
    cut: "回答已达到最大长度。",
    took: "{tokens} 个 token，{seconds} 秒",
    gone: "服务器没有响应。对话已保留，服务器恢复后可以重新提问。",
    loading: "模型仍在准备中，就绪后即可提问。",
    back: "服务器已就绪。",
    removed: "后面的内容已移除。",
    cleared: "对话已清空。",
    undo: "撤销",
    close: "关闭此提示",
    unreadable: "{name}：浏览器无法将其作为图片读取。",
    unnamedFile: "该文件",
    badAddress: "图片网址须以 http:// 或 https:// 开头。",
    badSetting: "有一项设置超出了取值范围。",
    needsKey: "服务器需要 API 密钥，请在“设置”中填写。",
    refused: "服务器拒绝了请求：{reason}",
    failed: "页面出错：{reason}",
    noCopy: "浏览器不允许在此复制。",
    notKept: "此浏览器不允许页面保存对话。关闭标签页后对话将丢失。",
  },
};

// The button that changes the language is written in the other one.
const OTHER = { en: ["zh", "中文", "zh-CN"], zh: ["en", "English", "en"] };

let language = local.get("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!Object.hasOwn(WORDS, language)) language = "en";

export function say(name, values = {}) {
  return WORDS[language][name].replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

export function otherLanguage() {
  language = OTHER[language][0];
  local.set("language", language);
  showWords();
}

// Puts its words into each element of the page that names them.
export function showWords() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-placeholder]")) {
    element.placeholder = say(element.dataset.placeholder);
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
  const button = document.getElementById("language");
  [, button.textContent, button.lang] = OTHER[language];
}
