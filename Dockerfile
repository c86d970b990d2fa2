# One image for the gateway, the worker and the CLI; docker-compose.yml selects one.

FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY packages/tasks/package.json packages/tasks/
COPY packages/contract/package.json packages/contract/
COPY packages/client/package.json packages/client/
COPY packages/tables/package.json packages/tables/
COPY packages/playground/package.json packages/playground/
COPY packages/shared/package.json packages/shared/
COPY apps/gateway/package.json apps/gateway/
COPY apps/worker/package.json apps/worker/
COPY apps/cli/package.json apps/cli/
RUN npm ci
COPY tsconfig.base.json tsconfig.json ./
COPY packages packages
COPY apps apps
COPY scripts/bundle.mjs scripts/
RUN npx tsc -b apps/gateway apps/worker apps/cli && node scripts/bundle.mjs && npm prune --omit=dev
# What the image does not run: the runtime for browsers, the image library, transformers.js, which is in a bundle, and binaries for
# other systems and processors.
RUN rm -rf node_modules/onnxruntime-web node_modules/sharp node_modules/@img node_modules/@xenova \
  && arch="$(node -p process.arch)" \
  && find node_modules/onnxruntime-node/bin -mindepth 3 -maxdepth 3 -type d ! -path "*/linux/$arch" -exec rm -rf {} + \
  && find node_modules/tokenizers -name '*.node' ! -name "*.linux-$arch-gnu.node" -delete

FROM node:24-slim
# A small young generation: see NODE_FLAGS in scripts/setup.mjs.
ENV NODE_ENV=production DATA_DIR=/data NODE_OPTIONS=--max-semi-space-size=8
WORKDIR /app
COPY --from=build /app ./
COPY models models
COPY models.json ./
COPY scripts/container.sh scripts/lock.mjs scripts/setup.mjs scripts/sluice.mjs scripts/
RUN mkdir /data && chown node:node /data
USER node
EXPOSE 8000
ENTRYPOINT ["/app/scripts/container.sh"]
CMD ["node", "--max-semi-space-size=16", "apps/gateway/bundle/main.js"]
