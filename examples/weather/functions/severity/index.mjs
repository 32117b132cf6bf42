// What an alert means for its station: the colour that weather services warn with.

const COLOURS = { 8: "yellow", 9: "yellow", 10: "orange", 11: "orange", 12: "red" };

export const handler = ({ station, time, beaufort }) => ({
  station,
  since: time,
  beaufort,
  severity: COLOURS[beaufort],
});
