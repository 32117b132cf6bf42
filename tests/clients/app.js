const one = (value, where) => {
  if (value.n < 0) throw new RangeError("negative");
  if (value.n === 99) process.exit(1);
  return { twice: 2 * value.n, offset: where };
};

exports.handler = async (event, context) => {
  if (!event.records) {
    const facts = JSON.parse(context.clientContext.custom.millrace);
    return one(event, facts.offset);
  }
  const outputs = [];
  const batchItemFailures = [];
  for (const [partition, records] of Object.entries(event.records)) {
    for (const record of records) {
      const source = { partition, offset: record.offset };
      try {
        const value = JSON.parse(Buffer.from(record.value, "base64").toString());
        outputs.push({ value: one(value, record.offset), source });
      } catch (error) {
        if (!(error instanceof RangeError)) throw error;
        batchItemFailures.push({ itemIdentifier: source });
      }
    }
  }
  return { batchItemFailures, $outputs: outputs };
};
