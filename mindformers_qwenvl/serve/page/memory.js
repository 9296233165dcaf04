// The conversation outlives a reload and a server that is gone: it is kept in this browser, pictures included.
// Each tab keeps its own; a new tab begins with the newest.

const MOST = 5; // conversations

// What a browser remembers for the tab, and for all tabs. Where it may not, it forgets with the page.
export const session = remembering(() => sessionStorage);
export const local = remembering(() => localStorage);

const tab = session.get("tab") ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;
session.set("tab", tab);

function remembering(open) {
  try {
    const storage = open();
    return { get: (name) => storage.getItem(name), set: (name, value) => storage.setItem(name, value) };
  } catch {
    const storage = new Map();
    return { get: (name) => storage.get(name) ?? null, set: (name, value) => storage.set(name, value) };
  }
}

function open() {
  return new Promise((done, failed) => {
    const request = indexedDB.open("qwenvl", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations");
    request.onsuccess = () => done(request.result);
    request.onerror = () => failed(request.error);
  });
}

// `act(store, result)` makes requests; what it gives to result() is what this returns once all is written.
async function work(mode, act) {
  const base = await open();
  try {
    return await new Promise((done, failed) => {
      const transaction = base.transaction("conversations", mode);
      let result;
      act(transaction.objectStore("conversations"), (value) => (result = value));
      transaction.oncomplete = () => done(result);
      transaction.onabort = transaction.onerror = () => failed(transaction.error);
    });
  } finally {
    base.close();
  }
}

// Returns whether it was kept: a private window may not allow it, a disk may be full.
export async function keep(state) {
  try {
    await work("readwrite", (store) => {
      store.put({ ...state, when: Date.now() }, tab);
      ages(store, (all) => all.slice(MOST).forEach(([key]) => key !== tab && store.delete(key)));
    });
    return true;
  } catch {
    return false;
  }
}

export function kept() {
  return work("readonly", (store, result) => {
    const own = store.get(tab);
    own.onsuccess = () => {
      if (own.result) result(own.result);
      else ages(store, ([newest]) => newest && (store.get(newest[0]).onsuccess = (event) => result(event.target.result)));
    };
  }).catch(() => undefined);
}

// [[key, when]] of all conversations, newest first.
function ages(store, then) {
  const found = [];
  store.openCursor().onsuccess = ({ target: { result: cursor } }) => {
    if (cursor) {
      found.push([cursor.key, cursor.value.when]);
      cursor.continue();
    } else {
      then(found.sort((a, b) => b[1] - a[1]));
    }
  };
}
