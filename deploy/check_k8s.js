// node check_k8s.js FILE...: offline schema check of Kubernetes YAML; exits 1 on any finding.
// kubernetes-models validates types, enums, required fields and quantities. A recording Proxy around the document
// then finds the keys that its validators never read: those are the unknown (misspelt) fields.
const fs = require('fs');
const yaml = require('js-yaml');

function modelOf(apiVersion, kind) {
  try {
    return require('kubernetes-models/' + apiVersion)[kind];
  } catch (e) {
    if (!['MODULE_NOT_FOUND', 'ERR_PACKAGE_PATH_NOT_EXPORTED'].includes(e.code)) throw e;
    return undefined;
  }
}

function record(object, path, seen) {
  if (object === null || typeof object !== 'object') return object;
  const info = { path, read: new Set(), all: false, keys: Array.isArray(object) ? [] : Object.keys(object) };
  const children = {};
  seen.push(info);
  return new Proxy(object, {
    get(target, key) {
      if (typeof key === 'symbol') return target[key];
      info.read.add(key);
      const value = target[key];
      if (value === null || typeof value !== 'object') return value;
      return children[key] || (children[key] = record(value, path + '/' + key, seen));
    },
    ownKeys(target) {
      info.all = true;
      return Reflect.ownKeys(target);
    },
  });
}

let bad = 0;
let count = 0;
for (const file of process.argv.slice(2)) {
  for (const doc of yaml.loadAll(fs.readFileSync(file, 'utf8'))) {
    if (!doc) continue;
    count++;
    const name = `${file}: ${doc.apiVersion} ${doc.kind} ${doc.metadata && doc.metadata.name}`;
    const model = modelOf(doc.apiVersion, doc.kind);
    const errors = [];
    const seen = [];
    if (!model) {
      errors.push('no schema for this apiVersion and kind');
    } else {
      try {
        model.prototype.validate.call(record(doc, '', seen));
      } catch (e) {
        errors.push(e.message);
      }
      for (const i of seen) {
        if (i.all) continue;
        for (const key of i.keys) if (!i.read.has(key)) errors.push(`${i.path}/${key} is an unknown field`);
      }
    }
    for (const e of errors) {
      bad = 1;
      console.log(name + ': FAIL ' + e);
    }
    if (!errors.length) console.log(name + ': ok');
  }
}
console.log(`${count} documents, ${bad ? 'FAILED' : 'ok'}`);
process.exit(bad || count === 0 ? 1 : 0);
