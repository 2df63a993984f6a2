// Shows the values of a chart under the pointer, or by the arrow keys.
for (const plot of document.querySelectorAll('[data-chart]')) {
  const chart = JSON.parse(plot.dataset.chart), cursor = plot.querySelector('.cursor'), tip = plot.querySelector('.tip');
  const steps = [...new Set(chart.series.flatMap(s => s.points.map(p => p[0])))].sort((a, b) => a - b);
  const span = (chart.high - chart.low) || 1, maps = chart.series.map(s => new Map(s.points));
  const number = v => v === null ? 'not finite' : Math.abs(v) >= 1e-3 || v === 0 ?
    v.toLocaleString('en', {maximumSignificantDigits: 6}) : v.toExponential(3);
  let at = -1;
  const show = i => {
    at = Math.max(0, Math.min(steps.length - 1, i));
    const step = steps[at], x = chart.high > chart.low ? (step - chart.low) / span : 0.5;
    const lines = ['step ' + step.toLocaleString('en')];
    chart.series.forEach((s, j) => {
      if (!maps[j].has(step)) return;
      const v = maps[j].get(step);
      const text = chart.unit === '%' && v !== null ? number(v * 100) + '%' :
        number(v) + (chart.unit && v !== null ? ' ' + chart.unit : '');
      lines.push((chart.series.length > 1 ? s.name + ': ' : '') + text);
    });
    tip.textContent = lines.join('\n');
    cursor.hidden = tip.hidden = false;
    cursor.style.left = 100 * x + '%';
    const room = plot.clientWidth - tip.offsetWidth;
    tip.style.left = Math.max(-40, Math.min(room, x * plot.clientWidth + (x > 0.5 ? -tip.offsetWidth - 10 : 10))) + 'px';
  };
  const hide = () => { cursor.hidden = tip.hidden = true; at = -1; };
  const point = event => {
    const box = plot.getBoundingClientRect(), want = chart.low + span * (event.clientX - box.left) / box.width;
    let best = 0;
    steps.forEach((s, i) => { if (Math.abs(s - want) < Math.abs(steps[best] - want)) best = i; });
    show(best);
  };
  plot.addEventListener('pointermove', point);
  plot.addEventListener('pointerdown', point);
  plot.addEventListener('pointerleave', hide);
  plot.addEventListener('blur', hide);
  plot.addEventListener('keydown', event => {
    const move = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (move) { show(at < 0 ? steps.length - 1 : at + move); event.preventDefault(); }
    if (event.key === 'Escape') hide();
  });
}
