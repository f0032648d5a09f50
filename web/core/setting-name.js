/** @type {Record<string, string>} what settings, and the fields of a model, are called on their pages */
const NAMES = {
  models_dirs: "Model folders", api_host: "API address", api_port: "API port", models_max: "Models at once",
  idle_seconds: "Idle time", min_residency: "Minimum residency", max_wait: "Longest wait",
  default_model: "Default model", budget: "Memory budget", yields: "Left to other programs",
  schedules: "Schedules", autostart: "Start with llamadash", check_releases: "Look for newer builds",
  check_models: "Look for newer models", defaults: "Default parameters",
  theme: "Theme", metrics_interval: "Measure every", metrics_retention_days: "Keep measurements",
  metrics_history_days: "Keep their averages", logs_retention_days: "Keep log lines", logs_max_rows: "Most log lines",
  log_level: "Minimum level", energy_price: "Energy price", currency: "Currency", alerts_off: "Alerts",
  alert_disk: "Disk in use", alert_memory: "GPU memory in use", alert_temperature: "GPU temperature",
  chat_presets: "Chat presets", idle: "Idle time",
};

/** What a setting is called where it is changed. @param {string} key */
export function settingName(key) {
  return NAMES[key] ?? key.charAt(0).toUpperCase() + key.slice(1);
}
