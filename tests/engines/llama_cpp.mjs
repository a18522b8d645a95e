// Greedy tokens and logits of stock llama.cpp on CPU, as a program: `node llama_cpp.mjs FOLDER < requests > answers`,
// a line of JSON each, where FOLDER/node_modules holds node-llama-cpp.
//
// A request holds `model` (a GGUF file), `prompts` (lists of token ids), `new_tokens`, and `texts`. Its answer has
// `answers`, for each prompt its greedy `tokens` and the `logits` at every position of prompt and tokens but the last,
// and for each text its `ids`. Keys and values are kept in fp32, so that rounding them hides nothing.

import {join} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const entry = join(process.argv[2], "node_modules", "node-llama-cpp", "dist", "index.js");
const {getLlama} = await import(pathToFileURL(entry).href);
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: 1});

/** Reads tokens behind those that the sequence holds; the logits [tokens, vocabulary] after each of them. */
async function read(sequence, tokens) {
    const input = tokens.map((token) => [token, {generateNext: {logits: true, options: {temperature: 0}}}]);
    const output = await sequence.controlledEvaluate(input);
    return output.map(({next}) => {
        const logits = new Array(next.logits.size);
        for (const [token, logit] of next.logits)
            logits[token] = logit;
        return logits;
    });
}

/** Reads the prompt at once, then decodes token by token from the engine's own state. */
async function greedy(model, prompt, newTokens) {
    const context = await model.createContext({
        contextSize: 256,
        threads: 1,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    const logits = await read(sequence, prompt);
    const tokens = [];
    while (true) {
        const last = logits[logits.length - 1];
        tokens.push(last.indexOf(Math.max(...last)));
        if (tokens.length >= newTokens)
            break;
        logits.push(...await read(sequence, tokens.slice(-1)));
    }
    await context.dispose();
    return {tokens, logits};
}

for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    const model = await llama.loadModel({modelPath: request.model, gpuLayers: 0});
    const answers = [];
    for (const prompt of request.prompts)
        answers.push(await greedy(model, prompt, request.new_tokens));
    const ids = request.texts.map((text) => model.tokenize(text, true));
    await model.dispose();
    process.stdout.write(JSON.stringify({answers, ids}) + "\n");
}
process.exit(0); // the library's threads would keep the process alive
