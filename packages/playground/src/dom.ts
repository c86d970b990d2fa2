/** The element with an id. @throws Error if the page has none of this kind */
export function element<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`The page has no ${kind.name} with the id ${id}`);
}

/** Creates an element with attributes and children. A text becomes a text node, never markup. */
export function create<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Readonly<Record<string, string>> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[Tag] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The chosen value of a group of radio buttons. */
export const chosen = (name: string): string =>
  document.querySelector<HTMLInputElement>(`input[name="${name}"]:checked`)?.value ?? '';

/** Calls a function whenever another radio button of a group is chosen. */
export function onChoice(name: string, then: () => void): void {
  for (const input of document.querySelectorAll(`input[name="${name}"]`))
    input.addEventListener('change', then);
}
